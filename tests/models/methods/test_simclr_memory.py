"""SimCLRv2's memory: a momentum network provides further negatives."""

from __future__ import annotations

import math

import pytest
import torch
from method_checks import (
    prepared,
    progress,
    teacher_takes_no_gradient,
    toy,
)
from torch.nn import functional as F

from models.configs.simclr import SimCLR
from models.losses.contrastive import candidates
from models.methods.simclr import SimCLRMethod

FAST = {
    "width": 0.25,
    "optimizer": "adamw",
    "learning_rate": 3e-3,
    "crop_min": 0.6,
    "jitter": 0.0,
    "grey": 0.0,
}
FAST |= {"projection": 32}
IMAGES, LABEL = toy(64)


def make(seed=0, **options):
    return SimCLRMethod(SimCLR(**{"memory": 128} | FAST | options), 16, seed)


def test_candidates_with_a_memory_are_the_batch_and_the_memory():
    g = torch.Generator().manual_seed(0)
    n, tau = 4, 0.3
    z, memory = torch.randn(2 * n, 6, generator=g), F.normalize(torch.randn(5, 6, generator=g), dim=1)
    losses = []
    for i in range(2 * n):
        u = [row / row.norm() for row in z.double()]
        others = [math.exp(u[i] @ u[j] / tau) for j in range(2 * n) if j != i]
        others += [math.exp(u[i] @ row / tau) for row in memory.double()]
        losses.append(-math.log(math.exp(u[i] @ u[(i + n) % (2 * n)] / tau) / sum(others)))
    s, positive = candidates(z, tau, memory)
    assert s.shape == (2 * n, 2 * n + 5)
    assert F.cross_entropy(s, positive).item() == pytest.approx(sum(losses) / (2 * n), rel=1e-6)


def test_equal_embeddings_are_at_chance_over_all_candidates():
    memory = F.normalize(torch.ones(9, 6), dim=1)
    assert F.cross_entropy(*candidates(torch.ones(8, 6), 0.3, memory)).item() == pytest.approx(
        math.log(7 + 9)
    )


def test_without_a_memory_it_is_simclr_as_it_was():
    method = make(memory=0).train()
    assert {name.split(".")[0] for name in method.state_dict()} == {"network", "projector"}
    batch = prepared(method, IMAGES)
    loss = method.loss(batch, progress()).total
    again = make(memory=0).train()
    assert torch.equal(loss, F.cross_entropy(*candidates(again.projector(again.network(batch.views)), 0.5)))
    before = {name: value.clone() for name, value in method.state_dict().items()}
    method.after_update(progress())
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    assert method.passes() == [(16, 2.0)]


def test_a_memory_leaves_the_weights_that_a_seed_gives():
    with_it, without = make().state_dict(), make(memory=0).state_dict()
    assert all(torch.equal(with_it[name], value) for name, value in without.items())


def test_second_views_by_the_momentum_network_enter_after_the_loss():
    method = make(memory_momentum=0.75).train()
    batch = prepared(method, IMAGES)
    old = method.memory.contents()
    loss = method.loss(batch, progress())
    twin = make(memory_momentum=0.75).train()
    z = twin.projector(twin.network(batch.views))
    torch.testing.assert_close(loss.total, F.cross_entropy(*candidates(z, 0.5, old)))
    with torch.no_grad():
        for p in method.projector.parameters():
            p.add_(1)
    before = method.averaged[1][-1][0].weight.clone()
    method.after_update(progress())
    expected = twin.averaged(batch.views[64:]).detach()
    torch.testing.assert_close(method.memory.contents()[:64], F.normalize(expected, dim=1))
    assert torch.equal(method.memory.contents()[64:], old[64:])
    torch.testing.assert_close(method.averaged[1][-1][0].weight, before + 0.25)


def test_no_gradient_reaches_the_momentum_network():
    method = make()
    teacher_takes_no_gradient(method, IMAGES, method.averaged)
