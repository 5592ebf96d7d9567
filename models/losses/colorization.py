"""Colour as classes (Zhang, Isola, Efros 2016, arXiv 1603.08511): bins, soft targets, rebalancing, decoding.

Symbols as in the paper: Q bins with centres (a, b) on a grid of 10; Z the soft target, Z^ the predicted
distribution; p~ the prior over bins, lambda the share of a uniform distribution mixed into it; w the weight
of a bin, v the weight of a place; T the temperature.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import ConvexHull
from torch import Tensor
from torch.nn import functional as F

from models.colour import lab

GRID = 10
SIGMA = 5.0
_AT_ONCE = 2_000_000
"""Number of distances computed at a time when colours are encoded."""


@dataclass(frozen=True)
class Soft:
    """Soft targets Z with few non-zero entries. Only these are stored, not all Q.

    Attributes:
        bins: (..., K) int64, the nearest bins, nearest first.
        weight: (..., K) float32, their shares, which sum to 1.
    """

    bins: Tensor
    weight: Tensor


def in_gamut_bins() -> Tensor:
    """The centres of the Q = 313 bins.

    They are the corners of all grid squares that the convex hull of sRGB's (a, b) meets. So every colour has
    the bins around it. They equal the 313 points that the authors published as a file, without a rule.

    Returns:
        (313, 2) float32, a and b, ordered by a, then b.
    """
    edge = torch.linspace(0, 1, 33, dtype=torch.float64, device="cpu")
    cube = torch.cartesian_prod(edge, edge, edge)
    hull = ConvexHull(lab(cube)[:, 1:].numpy())
    # A point is a corner of such a square if it is at most GRID off the hull along either axis. That means it
    # is in the sum of the hull and a square of half side GRID. This sum is the hull of the shifted vertices.
    shifts = GRID * np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]])
    widened = ConvexHull((hull.points[hull.vertices, None] + shifts).reshape(-1, 2))
    steps = torch.arange(-130, 131, GRID, dtype=torch.float64, device="cpu")
    points = torch.cartesian_prod(steps, steps)
    outward, offset = widened.equations[:, :2], widened.equations[:, 2]
    inside = (points.numpy() @ outward.T + offset <= 0).all(axis=1)
    return points[torch.from_numpy(inside)].float()


def encode(ab: Tensor, centres: Tensor, neighbours: int) -> Soft:
    """Soft targets: the nearest bins, weighted by exp(-d^2 / (2 sigma^2)), sigma 5 (section 2.2).

    Args:
        ab: (..., 2) float32 colours.
        centres: (Q, 2).
        neighbours: K, how many bins share the weight of a colour.
    """
    places = ab.reshape(-1, 2)
    parts = [
        torch.cdist(part, centres).topk(neighbours, largest=False)
        for part in torch.split(places, _AT_ONCE // len(centres))
    ]
    d, bins = (torch.cat([part[i] for part in parts]) for i in (0, 1))
    weight = torch.softmax(-d.square() / (2 * SIGMA**2), dim=1)
    shape = (*ab.shape[:-1], neighbours)
    return Soft(bins.view(shape), weight.view(shape))


def prior(targets: Soft, Q: int) -> Tensor:
    """(Q,) float64: the sum of the soft targets over all places, not yet divided by their number.

    A soft target spreads a colour like a Gaussian of sigma 5, the one with which the paper smooths the prior.
    """
    sums = torch.zeros(Q, dtype=torch.float64, device=targets.bins.device)
    return sums.index_add_(0, targets.bins.flatten(), targets.weight.flatten().double())


def rebalancing(p: Tensor, lam: float) -> Tensor:
    """Weights w of the bins (eq. 4): w ~ ((1 - lambda) p~ + lambda u)^-1 with sum_q p~_q w_q = 1.

    u is uniform over the bins that occur, as in the authors' code. A bin that doesn't occur gets the largest
    weight of those that do. So a colour that appears only in random crops counts as rare.

    Args:
        p: (Q,) the prior, sums to 1.
        lam: lambda; 1 gives equal weights, 0 inverse frequencies.

    Returns:
        (Q,) in the dtype of p.
    """
    seen = p > 0
    u = seen.to(p.dtype) / seen.sum()
    w = torch.where(seen, ((1 - lam) * p + lam * u).reciprocal(), 0)
    w = torch.where(seen, w, w.max())
    return w / (p * w).sum()


def weighted_cross_entropy(logits: Tensor, targets: Soft, v: Tensor) -> Tensor:
    """Eq. 2, as a mean: -sum_hw v_hw sum_q Z_hwq log Z^_hwq, divided by the number of places with v above 0.

    Args:
        logits: (B, Q, h, w).
        targets: of (B, h, w) places.
        v: (B, h, w) weights of the places, 0 at places that don't count.

    Returns:
        Scalar; 0 if no place counts.
    """
    log_z = F.log_softmax(logits.float(), dim=1)
    loss = -(targets.weight * log_z.permute(0, 2, 3, 1).gather(3, targets.bins)).sum(dim=3)
    return (v * loss).sum() / (v > 0).sum().clamp(min=1)


def annealed_mean(logits: Tensor, centres: Tensor, temperature: float) -> Tensor:
    """Eq. 5: the mean of softmax(log Z^ / T), between the mode (T to 0) and the mean (T = 1).

    Args:
        logits: (B, Q, h, w).
        centres: (Q, 2).
        temperature: T, above 0.

    Returns:
        (B, h, w, 2) float32, a and b.
    """
    return F.softmax(logits.float() / temperature, dim=1).permute(0, 2, 3, 1) @ centres
