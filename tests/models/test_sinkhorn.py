"""Sinkhorn-Knopp against the authors' steps in loops, lightly, closed forms and an exact solution."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from models.losses import sinkhorn as losses
from models.losses.sinkhorn import prototype_scaling, sinkhorn


def cosines(B, K, d=16, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    z, c = (F.normalize(torch.randn(n, d, generator=g, dtype=torch.float64), dim=1) for n in (B, K))
    return (z @ c.T).to(dtype)


def slow(scores, epsilon, iterations):
    """Scale the rows and columns of Q (K, B) in turns, entry by entry, as in the paper."""
    B, K = len(scores), len(scores[0])
    Q = [[math.exp(scores[i][k] / epsilon) for i in range(B)] for k in range(K)]
    total = sum(map(sum, Q))
    Q = [[q / total for q in row] for row in Q]
    for _ in range(iterations):
        for k in range(K):
            mass = sum(Q[k])
            Q[k] = [q / mass / K for q in Q[k]]
        for i in range(B):
            mass = sum(Q[k][i] for k in range(K))
            for k in range(K):
                Q[k][i] /= mass * B
    return torch.tensor([[B * Q[k][i] for k in range(K)] for i in range(B)], dtype=torch.float64)


@pytest.mark.parametrize(
    ("B", "K", "epsilon", "iterations"),
    [(5, 3, 0.05, 3), (4, 9, 0.2, 1), (12, 7, 0.03, 10), (12, 7, 0.02, 10)],
)
def test_codes_are_those_of_the_authors_steps(B, K, epsilon, iterations):
    scores = cosines(B, K)
    expected = slow(scores.tolist(), epsilon, iterations)
    torch.testing.assert_close(sinkhorn(scores, epsilon, iterations), expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(
        sinkhorn(scores.float(), epsilon, iterations), expected.float(), rtol=1e-4, atol=1e-6
    )


def test_codes_are_lightlys():
    from lightly.loss.swav_loss import sinkhorn as lightly_sinkhorn

    scores = cosines(64, 20)
    ours = sinkhorn(scores, 0.05)
    torch.testing.assert_close(
        ours, lightly_sinkhorn(scores.clone(), iterations=3, epsilon=0.05), rtol=1e-9, atol=0
    )


def test_two_images_and_two_prototypes_have_a_closed_form():
    """Scaling preserves the odds ratio, so that p / (1 - p) = exp((a + d - b - c) / 2 epsilon)."""
    scores = torch.tensor([[0.9, 0.2], [0.5, 0.4]], dtype=torch.float64)
    p = torch.sigmoid((scores[0, 0] + scores[1, 1] - scores[0, 1] - scores[1, 0]) / (2 * 0.1))
    expected = torch.stack([torch.stack([p, 1 - p]), torch.stack([1 - p, p])])
    torch.testing.assert_close(sinkhorn(scores, 0.1, 500), expected, rtol=1e-9, atol=0)


def test_equal_images_get_the_flat_code_and_only_they():
    q = sinkhorn(cosines(1, 30).expand(8, -1), 0.05)
    torch.testing.assert_close(q, torch.full((8, 30), 1 / 30, dtype=torch.float64))
    assert sinkhorn(cosines(8, 30), 0.05).amax() > 2 / 30


def test_marginals():
    scores = cosines(256, 64, d=128, dtype=torch.float32)
    few, many = sinkhorn(scores, 0.05), sinkhorn(scores, 0.05, 100)
    for q in (few, many):
        assert q.dtype == torch.float32
        assert (q.sum(dim=1) - 1).abs().max() < 1e-6
    uneven = [(q.sum(dim=0) * 64 / 256 - 1).abs().max().item() for q in (few, many)]
    assert 1e-4 < uneven[0] < 0.1
    assert uneven[1] < 1e-5


def test_invariances():
    scores = cosines(10, 6)
    q = sinkhorn(scores, 0.05)
    torch.testing.assert_close(sinkhorn(scores + 3.7, 0.05), q)
    torch.testing.assert_close(
        sinkhorn(scores + cosines(1, 6, seed=5), 0.05), q
    )  # a constant for each prototype
    order, images = torch.randperm(6), torch.randperm(10)
    torch.testing.assert_close(sinkhorn(scores[:, order], 0.05), q[:, order])
    torch.testing.assert_close(sinkhorn(scores[images], 0.05), q[images])
    shifted = scores + cosines(10, 1, seed=6)  # a constant for each image
    torch.testing.assert_close(
        sinkhorn(shifted, 0.05, 2000), sinkhorn(scores, 0.05, 2000), rtol=1e-6, atol=1e-9
    )
    assert not torch.allclose(sinkhorn(shifted, 0.05), q)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_small_epsilon_neither_overflows_nor_loses_an_image(dtype):
    scores = torch.cat([torch.full((3, 4), -1.0), torch.eye(4)]).to(dtype)  # exp(-2 / 0.005) is 0 in float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        q = sinkhorn(scores, 0.005)
    assert q.dtype == torch.float32
    assert q.isfinite().all()
    torch.testing.assert_close(q.sum(dim=1), torch.ones(7))
    torch.testing.assert_close(q[3:], torch.eye(4))
    torch.testing.assert_close(q[:3], torch.full((3, 4), 0.25))


def test_without_iterations_codes_are_a_softmax_and_shares_are_unequal():
    scores = torch.tensor([[0.9, 0.1, -0.3], [0.8, 0.2, 0.0]], dtype=torch.float64)
    for epsilon in (0.03, 0.5):
        q = sinkhorn(scores, epsilon, 0)
        torch.testing.assert_close(q, (scores / epsilon).softmax(dim=1))
        assert q.sum(dim=0)[0] > 1  # of two images three prototypes would get 2 / 3 each


def test_codes_have_no_gradient():
    assert not sinkhorn(cosines(4, 3).requires_grad_(), 0.05).requires_grad


# A whole data set


def in_blocks(L, rows=7):
    return lambda: torch.split(L, rows)


@pytest.mark.parametrize("iterations", [1, 3, 20])
def test_labels_of_a_data_set_are_those_of_the_codes(iterations):
    scores = cosines(50, 12)
    beta = prototype_scaling(in_blocks(scores / 0.05), iterations=iterations)
    assert torch.equal((scores / 0.05 + beta).argmax(dim=1), sinkhorn(scores, 0.05, iterations).argmax(dim=1))
    torch.testing.assert_close(prototype_scaling(in_blocks(scores / 0.05, 50), iterations=iterations), beta)


@pytest.mark.parametrize("steps", [1, 2, 3, 8, 25])
def test_scalings_and_their_end_are_those_of_selas_algorithm(steps, monkeypatch):
    """r = (1/K) / (P c) and c = (1/N) / (P^T r) repeat until sum |c / c' - 1| is below the tolerance."""
    log_p = F.log_softmax(5 * cosines(40, 6, seed=2), dim=1)
    P, N, K = np.exp(3 * log_p.numpy()).T, 40, 6
    c = np.full(N, 1 / N)
    for _ in range(steps):
        r = 1 / K / (P @ c)
        new = 1 / N / (P.T @ r)
        change, c = np.abs(c / new - 1).sum(), new
    calls = []

    def blocks():
        calls.append(1)
        return torch.split(3 * log_p, 9)

    # A pass computes c from the last r, and then the next r. It therefore ends one r after the loop above.
    expected = 1 / K / (P @ c)
    held = prototype_scaling(blocks, tolerance=change * (1 + 1e-6))
    assert len(calls) == 1
    further = prototype_scaling(blocks, tolerance=change * (1 - 1e-6))
    monkeypatch.setattr(losses, "HELD", 100)  # in blocks that are not all in memory
    calls.clear()
    beta = prototype_scaling(blocks, tolerance=change * (1 + 1e-6))
    assert len(calls) == steps + 1 + 1  # the first pass finds that there are too many
    for found in (held, beta):
        np.testing.assert_allclose(found.exp().numpy(), expected, rtol=1e-9)
        assert found.dtype == torch.float64
    calls.clear()
    torch.testing.assert_close(prototype_scaling(blocks, tolerance=change * (1 - 1e-6)), further)
    assert len(calls) == steps + 2 + 1


def test_what_vanishes_in_float64_is_scaled_on_logarithms():
    L = 2000 * F.log_softmax(3 * cosines(20, 4, seed=5), dim=1)  # down to e^-8000
    assert (
        not bool((L - L.max(dim=1, keepdim=True).values).exp().sum(dim=0).log().isfinite().all())
        or float(L.min()) < -745
    )
    beta = prototype_scaling(in_blocks(L, 6), iterations=50)
    assert bool(beta.isfinite().all())
    torch.testing.assert_close(beta, losses._streamed(in_blocks(L, 6), 50, 0.0))


def test_at_large_lambda_labels_are_the_best_equal_partition():
    """The Hungarian algorithm gives the exact one, with an equal number of places for each label."""
    from scipy.optimize import linear_sum_assignment

    log_p = F.log_softmax(4 * cosines(30, 5, seed=4), dim=1)
    _, place = linear_sum_assignment(-np.repeat(log_p.numpy(), 6, axis=1))
    beta = prototype_scaling(in_blocks(60 * log_p, 30), iterations=2000, tolerance=1e-4)
    label = (60 * log_p + beta).argmax(dim=1)
    assert label.tolist() == (place // 6).tolist()
    assert log_p.argmax(dim=1).bincount(minlength=5).tolist() != [6] * 5
