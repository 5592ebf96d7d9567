"""BYOL and Momentum² Teacher against their equations, lightly's loss, and each other."""

from __future__ import annotations

import copy
import math
from itertools import pairwise

import pytest
import torch
from method_checks import (
    prepared,
    progress,
    teacher_takes_no_gradient,
    toy,
    trained,
)
from torch import nn
from torch.nn import functional as F

from models.configs.byol import BYOL
from models.configs.momentum2 import Momentum2
from models.losses.regression import normalised_regression
from models.methods.byol import BYOLMethod, Momentum2Method
from models.network import Network
from models.norms import MomentumBatchNorm, SplitBatchNorm

FAST = {
    "width": 0.25,
    "optimizer": "adamw",
    "learning_rate": 3e-3,
    "crop_min": 0.6,
    "jitter": 0.0,
    "grey": 0.0,
}
FAST |= {"hidden": 64, "projection": 32, "weight_decay": 0.0}
IMAGES, LABEL = toy(64)
FORMS = {
    "byol": (BYOLMethod, BYOL, {}),
    "byol, split": (BYOLMethod, BYOL, {"teacher_norm": "split", "student_norm": "split", "norm_groups": 4}),
    "byol, momentum": (BYOLMethod, BYOL, {"teacher_norm": "momentum"}),
    "momentum2": (Momentum2Method, Momentum2, {}),
}


def make(form="byol", seed=0, **options):
    method, config, own = FORMS[form]
    return method(config(**FAST | own | options), 16, seed)


def bent(method):
    """Give the target network other weights and statistics than the online network."""
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in method.target.parameters():
            p.add_(0.3 * p.std(correction=0) * torch.randn(p.shape, generator=g))
        for name, buffer in method.target.named_buffers():
            if name.endswith("running_mean"):
                buffer.add_(0.1 * torch.randn(buffer.shape, generator=g))
    return method


# The loss


def test_the_loss_is_the_squared_distance_of_unit_vectors():
    from lightly.loss import NegativeCosineSimilarity

    g = torch.Generator().manual_seed(0)
    p, z = torch.randn(2, 9, 5, generator=g)
    distances = []
    for a, b in zip(p.double(), z.double(), strict=True):
        u, v = a / math.sqrt(sum(x * x for x in a)), b / math.sqrt(sum(x * x for x in b))
        distances.append(sum((x - y) ** 2 for x, y in zip(u, v, strict=True)).item())
    assert normalised_regression(p, z).item() == pytest.approx(sum(distances) / 9, rel=1e-6)
    torch.testing.assert_close(normalised_regression(p, z), 2 + 2 * NegativeCosineSimilarity()(p, z))


def test_the_loss_in_closed_form():
    eye = torch.eye(6)
    assert normalised_regression(3 * eye, 0.1 * eye).item() == pytest.approx(0, abs=1e-6)
    assert normalised_regression(eye, eye.roll(1, 0)).item() == pytest.approx(2)
    assert normalised_regression(eye, -eye).item() == pytest.approx(4)


def test_the_loss_knows_directions_only_and_gives_targets_no_gradient():
    g = torch.Generator().manual_seed(0)
    p, z = (x.requires_grad_() for x in torch.randn(2, 9, 5, generator=g))
    scale = torch.rand(9, 1, generator=g) + 0.1
    loss = normalised_regression(p, z)
    torch.testing.assert_close(normalised_regression(scale * p, scale.flip(0) * z), loss)
    loss.backward()
    assert z.grad is None
    assert (p.grad * p).sum(dim=1).abs().max() < 1e-6


@pytest.mark.parametrize("form", FORMS)
def test_both_directions_each_view_by_itself(form):
    """The loss compares p(x) with z'(x'). Every network sees each view in a separate batch."""
    method = bent(make(form)).train()
    twin = copy.deepcopy(method)
    batch = prepared(method, IMAGES)
    now = progress(5)
    x_1, x_2 = batch.views.chunk(2)
    for m in twin.modules():
        if isinstance(m, MomentumBatchNorm):
            m.alpha = (1 + math.cos(math.pi * 5 / 20)) / 2
    expected = 0
    for x, other in ((x_1, x_2), (x_2, x_1)):
        p = F.normalize(twin.predictor(twin.online(x)), dim=1)
        z = F.normalize(twin.target(other), dim=1)
        expected = expected + (p - z).square().sum(dim=1).mean()
    torch.testing.assert_close(method.loss(batch, now).total, expected)
    batch.views = torch.cat([x_2, x_1])
    torch.testing.assert_close(bent(make(form)).train().loss(batch, now).total, expected)


@pytest.mark.parametrize("form", FORMS)
def test_the_loss_starts_between_agreement_and_opposition(form):
    loss = make(form).train().loss(prepared(make(form), IMAGES), progress())
    assert (
        2 < loss.total.item() < 6
    )  # predictions of a new predictor are unrelated to the targets, so the loss is 4
    assert 0.3 < float(loss.terms["spread"]) < 1.05


# The steps


@pytest.mark.parametrize("form", FORMS)
def test_the_target_follows_after_the_update_on_the_papers_cosine(form):
    method = make(form, momentum=0.9).train()
    K = 10
    for k in (0, 4, 9):
        method.loss(prepared(method, IMAGES, k), progress(k, K))
        with torch.no_grad():
            for p in method.online.parameters():
                p.add_(1)
        before = [p.clone() for p in method.target.parameters()]
        method.after_update(progress(k, K))
        t = 1 - (1 - 0.9) * (math.cos(math.pi * k / K) + 1) / 2
        for p, old, online in zip(
            method.target.parameters(), before, method.online.parameters(), strict=True
        ):
            torch.testing.assert_close(p, t * old + (1 - t) * online)


def test_the_second_view_is_drawn_as_asked():
    images = torch.full((200, 16, 16, 3), 200, dtype=torch.uint8)
    method = make(crop_min=1.0, second_solarize=0.3)
    first, second = (v[:, 0, 0, 0] for v in prepared(method, images).views.chunk(2))
    assert torch.allclose(first, torch.tensor(200 / 255))
    share = (second < 0.5).double().mean().item()
    assert abs(share - 0.3) < 4 * math.sqrt(0.3 * 0.7 / 200)


@pytest.mark.parametrize("form", FORMS)
def test_no_gradient_reaches_the_target(form):
    method = make(form)
    teacher_takes_no_gradient(method, IMAGES, method.target)


def test_the_predictor_is_the_online_sides_alone():
    method = make()
    assert len(method.target) == len(method.online) == 2
    linear = [m for m in method.predictor.modules() if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linear] == [(32, 64), (64, 32)]


@pytest.mark.parametrize("form", ["byol", "byol, split"])
def test_student_norm_is_on_the_student_alone(form):
    method = make(form, teacher_norm="batch")
    split = {m.groups for m in method.modules() if isinstance(m, SplitBatchNorm)}
    assert split == ({4} if form == "byol, split" else set())
    assert not any(isinstance(m, SplitBatchNorm) for m in method.target.modules())
    assert sum(isinstance(m, SplitBatchNorm) for m in method.predictor.modules()) == (form == "byol, split")


# Momentum² Teacher


def test_at_the_first_step_momentum2_is_byol_and_later_it_is_not():
    byol, momentum2 = bent(make("byol")).train(), bent(make("momentum2")).train()
    batch = prepared(byol, IMAGES)
    first, later = progress(0), progress(10)
    torch.testing.assert_close(byol.loss(batch, first).total, momentum2.loss(batch, first).total)
    difference = byol.loss(batch, later).total - momentum2.loss(batch, later).total
    assert difference.abs() > 1e-3


def test_statistics_are_written_once_an_iteration_for_both_views():
    method = make("momentum2").train()
    layer = next(m for m in method.target.modules() if isinstance(m, MomentumBatchNorm))
    seen = []
    handle = layer.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    mean, var = layer.running_mean.double(), layer.running_var.double()
    K = 6
    for k in range(K):
        seen.clear()
        method.loss(prepared(method, IMAGES, k), progress(k, K))
        assert len(seen) == 2
        torch.testing.assert_close(layer.running_mean.double(), mean, rtol=1e-4, atol=1e-5)
        method.after_update(progress(k, K))
        alpha = (math.cos(math.pi * k / K) + 1) / 2
        values = [x.double().transpose(0, 1).flatten(1) for x in seen]
        mean = alpha * sum(v.mean(dim=1) for v in values) / 2 + (1 - alpha) * mean
        var = alpha * sum(v.var(dim=1) for v in values) / 2 + (1 - alpha) * var
        torch.testing.assert_close(layer.running_mean.double(), mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(layer.running_var.double(), var, rtol=1e-4, atol=1e-5)
    handle.remove()


def test_a_resumed_training_continues_alpha():
    method = make("momentum2")
    alphas = []

    def note(module, given):
        alphas.append(module.alpha)

    def watched(seed):
        fresh = make("momentum2", seed)
        next(m for m in fresh.target.modules() if isinstance(m, MomentumBatchNorm)).register_forward_pre_hook(
            note
        )
        return fresh

    states = trained(method, IMAGES, batch_size=32)
    trained(watched(3), IMAGES, batch_size=32, resume=states[3])
    assert alphas[::2] == pytest.approx([(math.cos(math.pi * k / 8) + 1) / 2 for k in range(4, 8)])
    assert all(a > b for a, b in pairwise(alphas[::2]))


def test_byol_publishes_the_online_network_and_momentum2_the_teacher_with_its_statistics():
    byol, momentum2 = make("byol"), make("momentum2")
    assert byol.network is byol.online[0]
    assert momentum2.network is momentum2.target[0]
    trained(momentum2, IMAGES, epochs=2)
    plain = Network.from_description(momentum2.network.description())
    plain.load_state_dict(momentum2.network.state_dict())
    x = torch.rand(5, 3, 16, 16)
    torch.testing.assert_close(plain.eval()(x), momentum2.network.eval()(x))
    assert not torch.allclose(plain(x), momentum2.online.eval()[0](x), atol=1e-3)
    norms = [m for m in plain.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert all(m.running_mean.abs().sum() > 0 for m in norms)


def test_a_batch_of_the_teachers_does_not_decide_its_output_late_in_training():
    """This is the purpose of MomentumBN. At alpha near 0 an image's target hardly depends on its batch."""
    x = torch.rand(8, 3, 16, 16)
    other = torch.cat([x[:1], torch.rand(7, 3, 16, 16) ** 3])
    drift = {}
    for form in ("byol", "momentum2"):
        method = make(form)
        trained(method, IMAGES, epochs=2)
        method.train()
        for m in method.modules():
            if isinstance(m, MomentumBatchNorm):
                m.alpha = 0.01
        first, second = (F.normalize(method.target(batch), dim=1)[0] for batch in (x, other))
        drift[form] = (first - second).norm().item()
    assert drift["momentum2"] < 0.2 * drift["byol"]
