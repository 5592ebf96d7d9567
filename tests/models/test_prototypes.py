"""Prototypes: unit length, freezing, and how many are used."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from models.configs.shared import Optimization
from models.method import Progress
from models.optim import make_optimizer
from models.prototypes import Prototypes, frozen, share_used


@pytest.mark.parametrize("optimizer", ["sgd", "lars", "adamw", "muon"])
def test_frozen_prototypes_stay_bit_for_bit_and_build_up_no_momentum(optimizer):
    torch.manual_seed(0)
    prototypes = Prototypes(7, 5)
    config = Optimization(optimizer=optimizer, learning_rate=0.1, weight_decay=0.1)
    steps = make_optimizer(config, [], prototypes.parameters())
    before = prototypes.weight.detach().clone()
    for _ in range(3):
        steps.zero_grad()
        prototypes(torch.randn(4, 5)).square().sum().backward()
        prototypes.freeze()
        steps.step()
        prototypes.renormalise()
        assert torch.equal(prototypes.weight, before)
    assert not any(steps.state.values())
    prototypes(torch.randn(4, 5)).square().sum().backward()
    steps.step()
    prototypes.renormalise()
    assert not torch.allclose(prototypes.weight, before)
    torch.testing.assert_close(prototypes.weight.norm(dim=1), torch.ones(7))


def test_scores_are_cosines_in_float32_also_under_autocast():
    prototypes = Prototypes(7, 5)
    z = F.normalize(torch.randn(2, 3, 5), dim=2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = prototypes(z)
    expected = F.cosine_similarity(z[:, :, None], prototypes.weight.expand(2, 3, -1, -1), dim=3)
    torch.testing.assert_close(scores, expected)
    assert scores.dtype == torch.float32


def test_placed_prototypes_ask_for_no_gradient():
    prototypes = Prototypes(3, 4, trained=False)
    C = F.normalize(torch.randn(3, 4), dim=1)
    prototypes.place(C)
    assert torch.equal(prototypes.weight, C)
    assert not prototypes(torch.randn(2, 4)).requires_grad


@pytest.mark.parametrize(("epochs", "steps"), [(0, 0), (1, 5), (0.5, 3), (2, 10), (1.2, 6)])
def test_frozen_for_so_many_passes(epochs, steps):
    assert [frozen(Progress(step, 20, step // 5, 4), epochs) for step in range(20)] == [
        s < steps for s in range(20)
    ]


def test_share_of_labels_used():
    assert share_used(torch.tensor([2, 2, 0, 2]), 8).item() == pytest.approx(
        2 / 4
    )  # four images can't use eight
    assert share_used(torch.tensor([2, 2, 0, 2] * 4), 8).item() == pytest.approx(2 / 8)
    assert share_used(torch.arange(8), 8).item() == 1
