"""DINO against a slow rewrite of its equations, closed forms, and lightly's loss."""

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
from torch import nn
from torch.nn import functional as F

from models import heads
from models.configs.dino import DINO
from models.cost import pretext_cost
from models.losses.centring import centred_softmax, entropies
from models.losses.codes import swapped_prediction
from models.method import Progress
from models.methods.dino import DINOMethod
from tasks.overlay import resolve

K, N, CROPS = 7, 3, 3


def method(seed=0, size=32, **options):
    small = {
        "backbone": "smallconv",
        "width": 0.25,
        "outputs": 32,
        "hidden": 32,
        "bottleneck": 16,
        "small_crops": 2,
    }
    return DINOMethod(DINO(**{**small, "learning_rate": 3e-3, **options}), size, seed)


def scores(views, seed=0):
    return torch.randn(views, N, K, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# The loss


def test_the_loss_is_equation_3_read_slowly():
    g_s, g_t, c = scores(2 + CROPS), scores(2, seed=1), scores(1, seed=2)[0, 0]
    tau_s, tau_t = 0.1, 0.05
    total, terms = 0.0, 0
    for i in range(2):
        for v in range(2 + CROPS):
            if v == i:
                continue
            terms += 1
            for n in range(N):
                up = [math.exp((g_t[i, n, k] - c[k]) / tau_t) for k in range(K)]
                down = [math.exp(g_s[v, n, k] / tau_s) for k in range(K)]
                total -= sum(u / sum(up) * math.log(d / sum(down)) for u, d in zip(up, down, strict=True)) / N
    assert terms == 2 * (1 + CROPS)
    found = swapped_prediction(g_s, centred_softmax(g_t, c, tau_t), tau_s)
    assert found.item() == pytest.approx(total / terms, rel=1e-10)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("crops", [0, CROPS])
def test_loss_and_centre_are_lightlys(crops):
    DINOLoss = pytest.importorskip("lightly.loss").DINOLoss
    theirs = DINOLoss(K, warmup_teacher_temp=0.04, teacher_temp=0.04, student_temp=0.1, center_momentum=0.9)
    ours = method(outputs=K, size=16)
    for step in range(3):
        g_s, g_t = scores(2 + crops, seed=step).float(), scores(2, seed=10 + step).float()
        expected = theirs(list(g_t), list(g_s), teacher_temp=0.04)
        P_t = centred_softmax(g_t, ours.centre, 0.04)
        torch.testing.assert_close(swapped_prediction(g_s, P_t, 0.1), expected)
        ours._mean = g_t.flatten(0, 1).mean(dim=0)
        ours.after_update(progress(step))
        torch.testing.assert_close(ours.centre, theirs.center.flatten())


def test_no_view_is_compared_with_itself():
    g_s = scores(2).requires_grad_()
    P_t = centred_softmax(scores(2, seed=1), torch.zeros(K), 0.05)
    (only_first,) = torch.autograd.grad(
        swapped_prediction(g_s, P_t * torch.tensor([1.0, 0.0]).view(2, 1, 1), 0.1), g_s
    )
    assert only_first[0].abs().max() == 0
    assert only_first[1].abs().max() > 0


def test_a_student_that_says_what_the_teacher_says_pays_the_teachers_entropy():
    g = scores(1, seed=3).expand(4, -1, -1)
    P_t = centred_softmax(g[:2] * 0.04, torch.zeros(K), 0.04)
    entropy, _ = entropies(P_t[0])
    assert swapped_prediction(g * 0.1, P_t, 0.1).item() == pytest.approx(entropy.item(), rel=1e-10)
    assert swapped_prediction(torch.zeros_like(g), P_t, 0.1).item() == pytest.approx(math.log(K), rel=1e-10)


def test_entropies_of_the_two_collapses_and_of_health():
    uniform = torch.full((5, K), 1 / K, dtype=torch.float64)
    one = F.one_hot(torch.full((5,), 2), K).double()
    each = F.one_hot(torch.arange(K), K).double()
    for p, expected in ((uniform, (math.log(K), math.log(K))), (one, (0, 0)), (each, (0, math.log(K)))):
        assert [value.item() for value in entropies(p)] == pytest.approx(expected, abs=1e-12)
    mixed = centred_softmax(scores(1)[0], torch.zeros(K), 0.3)
    slow = [-sum(q * math.log(q) for q in row.tolist()) for row in mixed]
    assert entropies(mixed)[0].item() == pytest.approx(sum(slow) / N, rel=1e-10)
    assert 0 < entropies(mixed)[0] < entropies(mixed)[1] < math.log(K)


def test_centring_takes_away_what_all_share_and_a_lower_temperature_sharpens():
    g, shared = scores(1)[0], torch.arange(K, dtype=torch.float64)
    torch.testing.assert_close(
        centred_softmax(g + shared, shared, 0.04),
        centred_softmax(g, torch.zeros(K), 0.04),
        rtol=0,
        atol=1e-12,
    )
    sharp, soft = (entropies(centred_softmax(g, torch.zeros(K), tau))[0] for tau in (0.04, 0.4))
    assert sharp < soft
    assert not centred_softmax(g.requires_grad_(), torch.zeros(K), 0.04).requires_grad


# The head


def test_the_head_gives_cosines_with_unit_rows_whatever_the_scale_of_its_weights():
    torch.manual_seed(0)
    head, x = heads.DINOHead(6, 12, 5, K, norm=False).requires_grad_(False), torch.randn(4, 6)
    z = head.embed(x)
    torch.testing.assert_close(z.norm(dim=1), torch.ones(4))
    expected = torch.tensor([[F.cosine_similarity(a, b, dim=0) for b in head.last] for a in z])
    torch.testing.assert_close(head(x), expected)
    torch.testing.assert_close(
        head.scores(F.normalize(head.last, dim=1)).diagonal(), torch.ones(K)
    )  # rows of length 1
    before = head(x)
    head.last.mul_(torch.rand(K, 1) + 0.5)
    torch.testing.assert_close(head(x), before)
    assert [type(m).__name__ for m in head.mlp] == ["Linear", "GELU", "Linear", "GELU", "Linear"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert head(x).dtype == torch.float32
        torch.testing.assert_close(head.scores(z), before)
    normed = heads.DINOHead(6, 12, 5, K, norm=True)
    assert sum(isinstance(m, nn.BatchNorm1d) for m in normed.modules()) == 2
    assert not any(isinstance(m, nn.ReLU) for m in normed.modules())


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("norm", [False, True])
def test_the_head_is_lightlys_with_the_same_weights(norm):
    modules = pytest.importorskip("lightly.models.modules.heads")
    torch.manual_seed(0)
    theirs = modules.DINOProjectionHead(6, 12, 5, K, batch_norm=norm).eval()
    ours = heads.DINOHead(6, 12, 5, K, norm=norm).eval()
    linear = [[m for m in head.modules() if isinstance(m, nn.Linear)] for head in (theirs.layers, ours.mlp)]
    with torch.no_grad():
        for a, b in zip(*linear, strict=True):
            b.weight.copy_(a.weight)
            if a.bias is not None:
                b.bias.copy_(a.bias)
        vectors = torch.randn(K, 5)
        ours.last.copy_(vectors)
        next(p for name, p in theirs.last_layer.named_parameters() if p.shape == (K, 5)).copy_(vectors)
        x = torch.randn(4, 6)
        torch.testing.assert_close(ours(x), theirs(x))


# The method


@pytest.mark.parametrize("backbone", ["smallconv", "vit_tiny", "mobilenet_v3", "resnet50_sk"])
def test_no_gradient_reaches_the_teacher(backbone):
    images, _ = toy(8, 32)
    m = method(backbone=backbone)
    teacher_takes_no_gradient(m, images, m.teacher)
    assert m.network is m.teacher[0]


def test_the_start_is_near_chance_and_nothing_has_collapsed():
    images, _ = toy(64, 32)
    m = method(outputs=512, bottleneck=128).train()
    loss = m.loss(prepared(m, images), progress())
    assert 0.9 * math.log(512) < loss.total.item() < math.log(512) + 1 / (2 * 128 * 0.1**2) + 0.3
    assert 0 < float(loss.terms["entropy"]) <= float(loss.terms["entropy_of_mean"]) <= math.log(512)
    assert m.collapsed({name: float(value) for name, value in loss.terms.items()}) is None


def test_both_collapses_are_told_apart_from_health():
    m = method()
    most = math.log(32)
    assert "uniform" in m.collapsed({"entropy": most - 1e-4, "entropy_of_mean": most, "spread": 0.5})
    assert "always the same" in m.collapsed({"entropy": 0.001, "entropy_of_mean": 0.002, "spread": 0.5})
    assert "spread" in m.collapsed({"entropy": 1.0, "entropy_of_mean": 1.0, "spread": 0.01})
    assert m.collapsed({"entropy": 1.0, "entropy_of_mean": 3.0, "spread": 0.5}) is None
    assert m.collapsed({}) is None


@pytest.mark.parametrize(
    ("teacher_says", "found"), [("nothing", "uniform"), ("one thing", "always the same"), ("much", None)]
)
def test_the_terms_of_a_step_show_a_collapse(monkeypatch, teacher_says, found):
    m = method(teacher_temperature=0.04).train()
    images, _ = toy(16, 32)
    g = {
        "nothing": torch.zeros(32, 32),
        "one thing": F.one_hot(torch.full((32,), 5), 32).float(),
        "much": torch.eye(32),
    }
    monkeypatch.setattr("models.methods.dino.teach", lambda teacher, x, progress: g[teacher_says])
    terms = m.loss(prepared(m, images), progress()).terms
    measure = m.collapsed({name: float(value) for name, value in terms.items()} | {"spread": 0.5})
    assert measure is None if found is None else found in measure


def test_a_constant_mean_brings_the_centre_to_its_closed_form():
    m, mean = method(size=16), torch.linspace(-1, 1, 32)
    for n in range(1, 6):
        m._mean = mean
        m.after_update(progress())
        torch.testing.assert_close(m.centre, mean * (1 - 0.9**n))


def test_the_centre_follows_the_mean_over_both_large_crops_after_the_loss():
    m = method(size=16).train()
    batch = prepared(m, toy(8, 16)[0])
    with torch.no_grad():
        g_t = torch.cat([m.teacher(batch.views[0])])
    assert len(batch.views[0]) == 16
    m.loss(batch, progress())
    assert m.centre.abs().max() == 0
    m.after_update(progress())
    torch.testing.assert_close(m.centre, 0.1 * g_t.mean(dim=0))


def test_gradients_are_clipped_tensor_by_tensor():
    m = method(size=16, clip=0.5, freeze_epochs=0)
    g = torch.Generator().manual_seed(0)
    for number, p in enumerate(m.student.parameters()):
        p.grad = torch.randn(p.shape, generator=g) * (0.001 if number % 2 else 10)
    before = [p.grad.clone() for p in m.student.parameters()]
    m.before_update(progress())
    for old, p in zip(before, m.student.parameters(), strict=True):
        norm = old.norm().item()
        torch.testing.assert_close(p.grad, old * min(1.0, 0.5 / (norm + 1e-6)))
    assert max(p.grad.norm().item() for p in m.student.parameters()) <= 0.5


def test_the_last_layer_stands_still_in_the_first_epoch():
    m = method(size=16)
    for step, epoch, held in ((0, 0, True), (4, 0, True), (5, 1, False)):
        for p in m.student.parameters():
            p.grad = torch.ones_like(p)
        m.before_update(Progress(step, 10, epoch, 2))
        assert (m.student[1].last.grad is None) == held
        assert m.student[0].backbone.stages["conv1"][1].weight.grad is not None


def test_temperature_and_weight_decay_go_their_ways():
    m = method(size=16, teacher_temperature=0.04, teacher_temperature_final=0.06, teacher_warmup=0.5)
    found = [m.teacher_temperature(progress(step, 100)) for step in (0, 25, 50, 99)]
    assert found == pytest.approx([0.04, 0.05, 0.06, 0.06])
    assert method(size=16, teacher_warmup=0).teacher_temperature(progress(1, 100)) == pytest.approx(0.07)
    optimizer = m.optimizers()["main"]
    for p in m.student.parameters():
        p.grad = torch.ones_like(p)
    for step, decay in ((0, 0.04), (50, 0.22), (100, 0.4)):
        m.before_update(progress(step, 100))
        for group in optimizer.param_groups:
            assert group["weight_decay"] == pytest.approx(decay if group["params"][0].ndim > 1 else 0)


def test_the_views_are_the_papers():
    m = method(small_crops=3)
    images, _ = toy(4, 32)
    large, small = prepared(m, images).views
    assert (large.shape, small.shape) == ((8, 3, 32, 32), (12, 3, 14, 14))
    config = DINO()
    assert (config.crop_min, config.crop_max, config.small_crop_min, config.small_crop_max) == (
        0.4,
        1,
        0.05,
        0.4,
    )
    assert (config.blur, config.second_blur, config.small_blur) == (1, 0.1, 0.5)
    assert (config.solarize, config.second_solarize) == (0, 0.2)
    assert m.passes() == [(32, pytest.approx(2 + 2 / 3)), (14, 3)]
    assert method(small_crops=0).passes() == [(32, pytest.approx(2 + 2 / 3))]
    assert pretext_cost(m.config, 32).step > 0


def test_small_crops_are_blurred_as_often_as_asked():
    images, _ = toy(8, 96)
    options = {"small_crops": 1, "jitter": 0, "grey": 0, "flip": 0, "small_size": 40}
    plain, blurred, default = (
        prepared(method(size=96, small_blur=blur, blur=blur_of_first, **options), images).views[1]
        for blur, blur_of_first in ((0.0, 1.0), (1.0, 0.0), (None, 1.0))
    )
    assert torch.equal(blurred, default)
    assert not torch.equal(plain, blurred)
    assert (plain.diff(dim=3).abs().mean() > blurred.diff(dim=3).abs().mean()).item()


def test_it_is_configured_by_name():
    config = resolve({"pretext": {"method": "dino", "backbone": "vit_small", "outputs": 65_536}}).pretext
    assert isinstance(config, DINO)
    assert config.trainer == "models.methods.dino:DINOMethod"
