"""Swapped prediction against loops, lightly and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from models.losses.codes import swapped_prediction
from models.losses.sinkhorn import sinkhorn


def scores_of(V, B, K, seed=0):
    return torch.rand(V, B, K, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1


def slow(scores, q, tau):
    V, B, K = scores.shape
    total = 0.0
    for i in range(len(q)):
        for v in range(V):
            if v == i:
                continue
            for b in range(B):
                denominator = sum(math.exp(s / tau) for s in scores[v, b].tolist())
                for k in range(K):
                    p = math.exp(scores[v, b, k].item() / tau) / denominator
                    total -= q[i, b, k].item() * math.log(p) / (V - 1) / B / len(q)
    return total


@pytest.mark.parametrize("V", [2, 3, 5])
def test_as_in_loops_and_as_lightlys(V):
    from lightly.loss import SwaVLoss

    scores = scores_of(V, 4, 6)
    q = torch.stack([sinkhorn(s, 0.05) for s in scores[:2]])
    ours = swapped_prediction(scores, q, 0.1)
    assert ours.item() == pytest.approx(slow(scores, q, 0.1), rel=1e-9)
    lightly = SwaVLoss(temperature=0.1, sinkhorn_iterations=3, sinkhorn_epsilon=0.05)
    assert ours.item() == pytest.approx(lightly([*scores[:2]], [*scores[2:]]).item(), rel=1e-9)


def test_equal_scores_cost_ln_k_whatever_the_codes():
    q = torch.softmax(scores_of(2, 5, 30), dim=2)
    assert swapped_prediction(torch.full((4, 5, 30), 0.3), q, 0.1).item() == pytest.approx(
        math.log(30), rel=1e-6
    )


def test_the_least_is_the_entropy_of_codes_that_all_crops_share():
    q = torch.softmax(scores_of(1, 5, 8), dim=2)
    entropy = -(q * q.log()).sum(dim=2).mean()
    scores = (0.1 * q.log()).expand(3, -1, -1)
    torch.testing.assert_close(swapped_prediction(scores, q.expand(2, -1, -1), 0.1), entropy)


def test_no_crop_predicts_its_own_code_and_no_gradient_enters_codes():
    scores = scores_of(3, 4, 6).requires_grad_()
    q = torch.softmax(scores_of(2, 4, 6, seed=1), dim=2).requires_grad_()
    (own,) = torch.autograd.grad(swapped_prediction(scores, q, 0.1), scores)
    other = torch.stack([q[0].flip(1), q[1]]).detach()
    (changed,) = torch.autograd.grad(swapped_prediction(scores, other, 0.1), scores)
    torch.testing.assert_close(own[0], changed[0])
    assert not torch.allclose(own[1], changed[1])
    assert not torch.allclose(own[2], changed[2])
    p = F.softmax(scores[0] / 0.1, dim=1)
    torch.testing.assert_close(own[0], ((p - q[1]) / 0.1 / 2 / 2 / 4).detach())  # tau, A, V - 1, B
    swapped_prediction(scores, q, 0.1).backward()
    assert q.grad is None


def test_float32_under_autocast():
    scores = scores_of(2, 4, 6).float()
    q = torch.softmax(scores, dim=2)
    expected = swapped_prediction(scores, q, 0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(swapped_prediction(scores, q, 0.1), expected)
