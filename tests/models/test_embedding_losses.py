"""Distributions over coordinates (S2-BNN) and over a queue (SEED): slow rewrites, closed forms, scipy."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from models.losses.contrastive import against_queue, info_nce
from models.losses.embeddings import (
    at_width,
    cross_entropy,
    entropy,
    over_coordinates,
    over_places,
    over_queue,
)


def rows(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_softmax(scores):
    powers = [math.exp(x) for x in scores]
    return [p / sum(powers) for p in powers]


def slow_unit(z):
    length = math.sqrt(sum(x * x for x in z))
    return [x / length for x in z]


def test_over_coordinates_is_its_slow_rewrite():
    s, t, tau = rows(5, 7), 3 * rows(5, 7, seed=1), 0.2
    expected = 0.0
    for a, b in zip(s.tolist(), t.tolist(), strict=True):
        p_s = slow_softmax([x / tau for x in slow_unit(a)])
        p_t = slow_softmax([x / tau for x in slow_unit(b)])
        expected -= sum(q * math.log(p) for p, q in zip(p_s, p_t, strict=True)) / len(s)
    found = cross_entropy(over_coordinates(s, tau), over_coordinates(t, tau))
    assert found.item() == pytest.approx(expected, abs=1e-12)


def test_over_queue_is_its_slow_rewrite():
    s, t, queue = rows(4, 6), 2 * rows(4, 6, seed=1), F.normalize(rows(9, 6, seed=2), dim=1)
    tau_s, tau_t, expected = 0.2, 0.05, 0.0
    for i in range(4):
        a, b = slow_unit(s[i].tolist()), slow_unit(t[i].tolist())
        candidates = [b, *queue.tolist()]
        p_s = slow_softmax([sum(x * y for x, y in zip(a, c, strict=True)) / tau_s for c in candidates])
        p_t = slow_softmax([sum(x * y for x, y in zip(b, c, strict=True)) / tau_t for c in candidates])
        expected -= sum(q * math.log(p) for p, q in zip(p_s, p_t, strict=True)) / 4
    found = cross_entropy(over_queue(s, t, queue, tau_s), over_queue(t, t, queue, tau_t))
    assert found.item() == pytest.approx(expected, abs=1e-12)


def test_over_places_is_its_slow_rewrite():
    maps, tau = rows(2 * 3, 4 * 2).reshape(2, 3, 4, 2), 0.1
    found = over_places(maps, tau)
    assert found.shape == (2, 8, 8)
    for image, log_p in zip(maps, found, strict=True):
        places = [slow_unit(image[:, y, x].tolist()) for y in range(4) for x in range(2)]
        for a, row in zip(places, log_p.exp().tolist(), strict=True):
            expected = slow_softmax([sum(x * y for x, y in zip(a, b, strict=True)) / tau for b in places])
            assert row == pytest.approx(expected, abs=1e-12)


def test_similar_places_don_t_depend_on_the_scale_or_the_basis_of_a_map():
    maps = rows(2 * 5, 9).reshape(2, 5, 3, 3)
    basis, _ = torch.linalg.qr(rows(5, 5, seed=1))
    turned = 3 * torch.einsum("dc,bchw->bdhw", basis, maps)
    torch.testing.assert_close(over_places(turned, 0.07), over_places(maps, 0.07))


def test_the_loss_is_scipys_entropy_and_divergence():
    from scipy.stats import entropy as scipy_entropy

    log_s, log_t = over_coordinates(rows(6, 8), 0.2), over_coordinates(rows(6, 8, seed=1), 0.2)
    least = np.mean([scipy_entropy(p) for p in log_t.exp().numpy()])
    divergence = np.mean(
        [scipy_entropy(p, q) for p, q in zip(log_t.exp().numpy(), log_s.exp().numpy(), strict=True)]
    )
    assert entropy(log_t).item() == pytest.approx(least, abs=1e-12)
    assert cross_entropy(log_s, log_t).item() == pytest.approx(least + divergence, abs=1e-12)


def test_at_128_coordinates_the_loss_lies_between_its_floor_and_chance():
    s, t = rows(4000, 128), rows(4000, 128, seed=1)
    log_s, log_t = over_coordinates(s, 0.2), over_coordinates(t, 0.2)
    assert entropy(log_t).item() == pytest.approx(4.755, abs=0.002)
    assert entropy(log_t).item() == pytest.approx(math.log(128) - 1 / (2 * 128 * 0.2**2), abs=0.002)
    assert cross_entropy(log_s, log_t).item() == pytest.approx(4.949, abs=0.002)
    flat = over_coordinates(torch.ones(3, 128), 0.2)
    assert entropy(flat).item() == pytest.approx(math.log(128), abs=1e-5)


@pytest.mark.parametrize("tau", [0.2, 0.5])
@pytest.mark.parametrize("d", [32, 128, 512, 2048])
def test_at_its_temperature_every_width_is_as_far_from_flat_as_128_coordinates(d, tau):
    """The entropy of exp(u / tau_d) over Gaussian coordinates u of size 1 / sqrt(d) falls short by this."""
    s, t = rows(2000, d), rows(2000, d, seed=1)
    tau_d = at_width(tau, d)
    log_s, log_t = over_coordinates(s, tau_d), over_coordinates(t, tau_d)
    spread = 1 / (128 * tau**2)
    assert math.log(d) - entropy(log_t).item() == pytest.approx(spread / 2, rel=0.05)
    assert cross_entropy(log_s, log_t).item() - entropy(log_t).item() == pytest.approx(spread, rel=0.05)


def test_without_it_targets_of_2048_coordinates_are_flat():
    t = over_coordinates(rows(500, 2048), 0.2)
    assert math.log(2048) - entropy(t).item() == pytest.approx(1 / (2 * 2048 * 0.2**2), rel=0.05)
    assert entropy(t).item() / math.log(2048) > 0.999
    assert at_width(0.2, 128) == 0.2  # the paper's width has the paper's temperature
    assert at_width(0.2, 2048) == pytest.approx(0.05)


@pytest.mark.parametrize("d", [128, 512, 2048])
def test_the_gradient_of_distillation_has_the_same_length_at_every_width(d):
    """For unit vectors s and t it is about (s - t) / (128 tau^2), without its part along s."""
    s, t = F.normalize(rows(300, d), dim=1).requires_grad_(), rows(300, d, seed=1)
    tau = at_width(0.2, d)
    loss = cross_entropy(over_coordinates(s, tau), over_coordinates(t, tau)) * len(s)
    (gradient,) = torch.autograd.grad(loss, s)
    unit = F.normalize(t, dim=1)
    across = unit - (unit * s).sum(dim=1, keepdim=True) * s
    expected = across.norm(dim=1).mean() / (128 * 0.2**2)
    assert gradient.norm(dim=1).mean().item() == pytest.approx(expected.item(), rel=0.15)
    assert F.cosine_similarity(-gradient, across.detach()).mean().item() > 0.9


def test_the_least_loss_is_the_teachers_entropy_and_only_at_the_teacher():
    t = rows(5, 16)
    log_t = over_coordinates(t, 0.2)
    torch.testing.assert_close(
        cross_entropy(over_coordinates(4 * t, 0.2), log_t), entropy(log_t)
    )  # of any length
    torch.testing.assert_close(cross_entropy(F.log_softmax(log_t + 3, dim=1), log_t), entropy(log_t))
    assert cross_entropy(over_coordinates(t + 0.1 * rows(5, 16, seed=1), 0.2), log_t) > entropy(log_t)
    queue = F.normalize(rows(20, 16, seed=2), dim=1)
    log_t = over_queue(t, t, queue, 0.2)
    torch.testing.assert_close(cross_entropy(over_queue(t, t, queue, 0.2), log_t), entropy(log_t))
    assert cross_entropy(over_queue(-t, t, queue, 0.2), log_t) > entropy(log_t)


def test_nothing_flows_into_the_teacher():
    s, t = rows(3, 8).requires_grad_(), rows(3, 8, seed=1).requires_grad_()
    queue = F.normalize(rows(5, 8, seed=2), dim=1).requires_grad_()
    cross_entropy(over_coordinates(s, 0.2), over_coordinates(t, 0.2)).backward()
    assert t.grad is None
    cross_entropy(over_queue(s, t.detach(), queue.detach(), 0.2), over_queue(t, t, queue, 0.1)).backward()
    assert t.grad is None
    assert queue.grad is None
    assert s.grad.abs().sum() > 0


def test_the_gradient_on_the_logits_is_the_difference_of_the_distributions():
    logits, log_t = rows(3, 8).requires_grad_(), over_coordinates(rows(3, 8, seed=1), 0.2)
    cross_entropy(F.log_softmax(logits, dim=1), log_t).backward()
    torch.testing.assert_close(logits.grad, (logits.detach().softmax(dim=1) - log_t.exp()) / 3)


def test_similarities_are_distributions_that_become_one_hot():
    t, queue = rows(6, 12), F.normalize(rows(30, 12, seed=1), dim=1)
    for tau in (0.01, 0.2, 5.0):
        torch.testing.assert_close(
            over_queue(t, t, queue, tau).exp().sum(dim=1), torch.ones(6, dtype=torch.float64)
        )
    sharp = over_queue(t, t, queue, 1e-4).exp()
    torch.testing.assert_close(sharp, F.one_hot(torch.zeros(6, dtype=torch.int64), 31).double())


def test_with_a_sharp_teacher_seed_is_mocos_infonce_with_the_teachers_keys():
    s, t, queue = (
        rows(6, 12).float(),
        rows(6, 12, seed=1).float(),
        F.normalize(rows(30, 12, seed=2), dim=1).float(),
    )
    seed = cross_entropy(over_queue(s, t, queue, 0.2), over_queue(t, t, queue, 1e-4))
    torch.testing.assert_close(seed, info_nce(against_queue(s, t, queue, 0.2)))


def test_scores_are_computed_in_float32_under_autocast():
    t, queue = rows(4, 64).bfloat16(), F.normalize(rows(50, 64, seed=1), dim=1).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = over_queue(t, t, queue, 0.01), over_coordinates(t, 0.2)
    expected = over_queue(t.float(), t.float(), queue, 0.01), over_coordinates(t.float(), 0.2)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b)
