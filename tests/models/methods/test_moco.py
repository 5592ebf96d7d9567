"""MoCo against a loop from the paper, the order of the authors' code, and lightly's loss."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from method_checks import (
    prepared,
    progress,
    teacher_takes_no_gradient,
    toy,
)
from torch import nn
from torch.nn import functional as F

from models import heads
from models.configs.moco import MoCo
from models.losses.contrastive import against_queue, info_nce
from models.methods.moco import MoCoMethod
from models.network import Network, build_network, seeded
from models.norms import MomentumBatchNorm, SplitBatchNorm

TAU = 0.2
FAST = {
    "width": 0.25,
    "optimizer": "adamw",
    "learning_rate": 3e-3,
    "crop_min": 0.6,
    "jitter": 0.0,
    "grey": 0.0,
}
FAST |= {"projection": 32, "queue": 128}
IMAGES, LABEL = toy(64)
FORMS = {
    "split": {},
    "symmetric": {"symmetric": True},
    "momentum": {"teacher_norm": "momentum", "student_norm": "batch"},
    "batch": {"teacher_norm": "batch", "student_norm": "batch"},
}


def make(seed=0, **options):
    return MoCoMethod(MoCo(**FAST | options), 16, seed)


def warmed(method, rounds=3):
    """Fill the queue with keys of real images that are not in the tests."""
    method.train()
    for seed in range(1, rounds + 1):
        method.loss(prepared(method, toy(64, seed=seed)[0]), progress())
        method.after_update(progress())
    return method


def vectors(*shapes, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=g, dtype=torch.float64) for shape in shapes]


# The loss


def test_info_nce_is_the_papers_sum():
    q, k, queue = vectors((5, 7), (5, 7), (11, 7))
    queue = F.normalize(queue, dim=1)
    losses = []
    for i in range(5):
        u, v = q[i] / q[i].norm(), k[i] / k[i].norm()
        scores = [math.exp(u @ v / TAU)] + [math.exp(u @ row / TAU) for row in queue]
        losses.append(-math.log(scores[0] / sum(scores)))
    found = info_nce(against_queue(q, k, queue.float(), TAU)).item()
    assert found == pytest.approx(sum(losses) / 5, rel=1e-6)


def test_info_nce_as_in_lightly():
    from lightly.loss import NTXentLoss

    loss = NTXentLoss(temperature=TAU, memory_bank_size=(24, 7))
    q, k = (v.float() for v in vectors((5, 7), (5, 7)))
    logits = against_queue(q, k, loss.memory_bank.bank, TAU)
    assert logits.shape == (5, 25)
    torch.testing.assert_close(info_nce(logits), loss(q, k))


def test_info_nce_in_closed_form():
    one = torch.ones(4, 7)
    assert info_nce(
        against_queue(one, 3 * one, F.normalize(torch.ones(9, 7), dim=1), TAU)
    ).item() == pytest.approx(math.log(10))
    eye = torch.eye(7)
    logits = against_queue(eye[:2], eye[:2], eye[2:], TAU)  # own key parallel, all others at right angles
    assert info_nce(logits).item() == pytest.approx(
        -math.log(math.e ** (1 / TAU) / (math.e ** (1 / TAU) + 5)), rel=1e-5
    )


def test_info_nce_knows_directions_only_and_gives_keys_no_gradient():
    q, k, queue = (v.float() for v in vectors((5, 7), (5, 7), (11, 7)))
    queue = F.normalize(queue, dim=1)
    q.requires_grad_()
    k.requires_grad_()
    loss = info_nce(against_queue(q, k, queue, TAU))
    scale = torch.tensor([0.1, 1, 2, 30, 5]).view(-1, 1)
    turn = torch.linalg.qr(vectors((7, 7), seed=3)[0])[0].float()
    torch.testing.assert_close(loss, info_nce(against_queue(q * scale, k * scale.flip(0), queue, TAU)))
    torch.testing.assert_close(loss, info_nce(against_queue(q @ turn, k @ turn, queue @ turn, TAU)))
    loss.backward()
    assert k.grad is None
    assert (q.grad * q).sum(dim=1).abs().max() < 1e-6  # only along the sphere


# The steps


def test_steps_are_those_of_the_authors_code_whose_keys_are_updated_first():
    """The authors follow, encode, compute the loss, enqueue, optimise. We follow at the end of a step."""
    method = make(
        teacher_norm="batch", student_norm="batch", optimizer="sgd", learning_rate=0.1, weight_decay=0.0
    )
    method.train()
    f_q, f_k = copy.deepcopy(method.network), copy.deepcopy(method.key)
    queue, m, tau = method.queue.contents(), 0.99, method.config.temperature
    optimizer = method.optimizers()["main"]
    theirs = torch.optim.SGD(f_q.parameters(), lr=0.1, momentum=0.9, nesterov=True)

    def follow():
        with torch.no_grad():
            for k, q in zip(f_k.parameters(), f_q.parameters(), strict=True):
                k.copy_(m * k + (1 - m) * q)

    for step in range(4):
        batch = prepared(method, IMAGES[:24], step)
        loss = method.loss(batch, progress(step)).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.after_update(progress(step))

        follow()
        x_q, x_k = batch.views.pairs.chunk(2)
        q = F.normalize(f_q(x_q), dim=1)
        with torch.no_grad():
            k = F.normalize(f_k(x_k), dim=1)
        logits = torch.cat([(q * k).sum(dim=1, keepdim=True), q @ queue.clone().T], dim=1) / tau
        expected = F.cross_entropy(logits, torch.zeros(24, dtype=torch.long))
        for i, row in enumerate(k):
            queue[(24 * step + i) % 128] = row
        theirs.zero_grad()
        expected.backward()
        theirs.step()
        torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(method.queue.contents(), queue, rtol=1e-3, atol=1e-4)
    follow()
    for ours, their in zip(method.key.parameters(), f_k.parameters(), strict=True):
        torch.testing.assert_close(ours, their, rtol=1e-3, atol=1e-4)


def test_keys_are_put_back_into_their_own_order():
    """Without groups the order in which keys are encoded makes no difference."""
    method = make(teacher_norm="batch").train()
    x = torch.rand(20, 3, 16, 16)
    order = torch.randperm(20)
    torch.testing.assert_close(
        method._encoded(x, order, progress()),
        method._encoded(x, torch.arange(20), progress()),
        rtol=1e-4,
        atol=1e-5,
    )


def test_keys_are_encoded_in_shuffled_groups():
    method = make(norm_groups=4).train()
    x = torch.rand(24, 3, 16, 16)
    order = torch.randperm(24)
    k = method._encoded(x, order, progress())
    plain = make(norm_groups=4, teacher_norm="batch").train()
    for g in range(4):
        rows = order[g::4]
        torch.testing.assert_close(
            k[rows], F.normalize(plain.key(x[rows]), dim=1).detach(), rtol=1e-4, atol=1e-5
        )
    assert not torch.allclose(k, method._encoded(x, torch.arange(24), progress()), atol=1e-3)


def test_the_order_is_a_permutation_and_another_one_each_step():
    method = make()
    orders = [prepared(method, IMAGES, step).views.order for step in range(3)]
    assert all(torch.equal(order.sort().values, torch.arange(64)) for order in orders)
    assert not torch.equal(orders[0], orders[1])
    assert torch.equal(orders[0], prepared(method, IMAGES, 0).views.order)


def test_symmetric_is_the_mean_of_both_directions_and_enqueues_both():
    one, both = make(**FORMS["batch"]).train(), make(symmetric=True, **FORMS["batch"]).train()
    batch = prepared(one, IMAGES)
    first = one.loss(batch, progress()).total
    (k_second,) = one._keys
    swapped = prepared(one, IMAGES)
    swapped.views = type(batch.views)(batch.views.pairs.roll(64, 0), batch.views.order)
    second = one.loss(swapped, progress()).total
    (k_first,) = one._keys
    torch.testing.assert_close(both.loss(batch, progress()).total, (first + second) / 2)
    both.after_update(progress())
    torch.testing.assert_close(both.queue.contents(), torch.cat([k_second, k_first]))


def test_this_steps_keys_are_no_negatives_and_enqueuing_leaves_the_gradient_alone():
    gradients = []
    for push in (False, True):
        method = warmed(make())
        before = method.queue.contents()
        loss = method.loss(prepared(method, IMAGES), progress()).total
        assert torch.equal(method.queue.contents(), before)
        if push:
            method.queue.push(torch.ones(128, 32))
        loss.backward()
        gradients.append([p.grad for p in method.network.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


# The method


@pytest.mark.parametrize("tau", [0.1, 0.5])
def test_it_starts_near_chance_once_the_queue_holds_keys(tau):
    method = warmed(make(temperature=tau))
    loss = method.loss(prepared(method, IMAGES), progress())
    chance, d = math.log(1 + 128), 32
    assert 0.8 * chance < loss.total.item() < chance + 1 / (2 * d * tau**2) + 0.3
    assert 0 <= float(loss.terms["accuracy"]) <= 1
    assert 0.1 < float(loss.terms["spread"]) < 1.05


@pytest.mark.parametrize("form", FORMS)
def test_no_gradient_reaches_the_key_encoder(form):
    method = make(**FORMS[form])
    teacher_takes_no_gradient(method, IMAGES, method.key)


def test_norms_of_both_encoders_are_as_asked_and_the_head_has_none():
    def kinds(module):
        return {type(m) for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}

    method = make()
    assert kinds(method.network) == kinds(method.key) == {SplitBatchNorm}
    method = make(teacher_norm="momentum", student_norm="batch")
    assert kinds(method.network) == {nn.BatchNorm2d}
    assert kinds(method.key) == {MomentumBatchNorm}
    for layers in (1, 2):
        head = make(head_layers=layers).network.projection
        assert [type(m) for m in head] == [nn.Linear, nn.ReLU, nn.Linear][-(2 * layers - 1) :]


@pytest.mark.parametrize("layers", [1, 2])
def test_the_query_encoder_is_published_with_its_head(layers):
    method = make(head_layers=layers).train()
    method.loss(prepared(method, IMAGES), progress()).total.backward()
    network = method.network
    assert network.layer_names()[-2:] == ["features", "projection"]
    assert all(p.grad.any() for p in network.projection.parameters())
    again = Network.from_description(network.description())
    again.load_state_dict(network.state_dict())
    x = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(again.eval()(x), network.eval()(x))
    assert torch.equal(network(x), network.projection(network.features(x)))
    assert network.with_classifier(3, seed=0).layer_names()[-2:] == ["features", "logits"]


def test_the_heads_first_weights_do_not_depend_on_its_being_published():
    """They are drawn after the network, as a module of their own."""
    plain = build_network("smallconv", 16, seed=5, width=0.25)
    with seeded(5, "projector"):
        head = heads.mlp(plain.output_dim, plain.output_dim, 32, norm=False)
    found = make(seed=5).network.state_dict()
    for name, tensor in plain.state_dict().items():
        assert torch.equal(found[name], tensor), name
    for name, tensor in head.state_dict().items():
        assert torch.equal(found[f"projection.{name}"], tensor), name
