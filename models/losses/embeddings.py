"""Turns embeddings into distributions, and compares a teacher's with a student's.

Symbols: s (B, d) the student's embeddings, t (B, d) the teacher's embeddings of the same views, D (K, d) unit
rows of a queue, tau temperature. Distributions are log-probabilities, with their C outcomes along the last
axis. They are computed outside autocast in float32, or in float64 for float64 inputs.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def over_coordinates(z: Tensor, tau: float) -> Tensor:
    """S2-BNN (arXiv 2102.08946): log softmax of z / (|z| tau) over the d coordinates of an embedding.

    A unit vector's coordinates are small, so this is close to flat. For random directions at d = 128 and
    tau = 0.2 the entropy is about ln d - 1 / (2 d tau^2) = 4.755.

    Args:
        z: (B, d), any scale per row.
        tau: temperature, above 0.

    Returns:
        (B, d) log-probabilities.
    """
    with torch.autocast(z.device.type, enabled=False):
        return F.log_softmax(_unit(z) / tau, dim=1)


COORDINATES = 128
"""Width of the embeddings in S2-BNN's paper. Its temperature is meant for this width."""


def at_width(tau: float, d: int) -> float:
    """The temperature at which d coordinates are as informative as the paper's 128 at tau.

    A coordinate of a unit vector has a size of about 1 / sqrt(d). So the entropy over coordinates falls short
    of ln d by about 1 / (2 d tau^2), and the gradient of the loss is about (s - t) / (d tau^2). With the
    paper's tau = 0.2, targets of 2048 coordinates would be flat: 0.006 nats below ln d in place of 0.098, and
    a gradient 16 times as small. tau sqrt(128 / d) keeps both as they are at 128
    (docs/decisions/0024-temperature-by-width.md).

    Args:
        tau: temperature at 128 coordinates, above 0.
        d: number of coordinates, at least 1.
    """
    return float(tau * (COORDINATES / d) ** 0.5)


def over_queue(z: Tensor, own: Tensor, queue: Tensor, tau: float) -> Tensor:
    """SEED (arXiv 2101.04731): log softmax of the similarities to the teacher's embeddings.

    Args:
        z: (B, d) embeddings of the student or the teacher, any scale per row.
        own: (B, d) the teacher's embeddings of the same views, any scale per row.
        queue: D, (K, d) unit rows, the teacher's embeddings of past batches.
        tau: temperature, above 0.

    Returns:
        (B, 1 + K) log-probabilities. Column 0 belongs to `own`.
    """
    with torch.autocast(z.device.type, enabled=False):
        u, v = _unit(z), _unit(own)
        return F.log_softmax(
            torch.cat([(u * v).sum(dim=1, keepdim=True), u @ queue.T.to(u.dtype)], dim=1) / tau, dim=1
        )


def over_places(maps: Tensor, tau: float) -> Tensor:
    """For each place of an image, log softmax of its similarities to all places of the same image.

    The vectors of two networks can't be compared, but which places of an image they find alike can.

    Args:
        maps: (B, c, h, w), any scale per place.
        tau: temperature, above 0.

    Returns:
        (B, h w, h w) log-probabilities; places count row by row.
    """
    with torch.autocast(maps.device.type, enabled=False):
        u = _unit(maps.flatten(2))
        return F.log_softmax(u.transpose(1, 2) @ u / tau, dim=2)


def cross_entropy(log_s: Tensor, log_t: Tensor) -> Tensor:
    """Mean over all distributions of -sum_c P_t log P_s. P_t gets no gradient.

    Args:
        log_s: (B, C) or (B, P, C) log-probabilities of the student.
        log_t: the teacher's, of the same shape.

    Returns:
        Scalar, at least the teacher's `entropy(log_t)`. It equals that only if both distributions are the
        same.
    """
    return -(log_t.detach().exp() * log_s).sum(dim=-1).mean()


def entropy(log_p: Tensor) -> Tensor:
    """Mean over all distributions of -sum_c P log P, in nats, without gradient -> scalar."""
    return cross_entropy(log_p.detach(), log_p)


def _unit(z: Tensor) -> Tensor:
    return F.normalize(z.to(torch.promote_types(z.dtype, torch.float32)), dim=1)
