"""Contrastive losses. Symbols: N images with 2 views each, z (2N, d) projections, tau temperature."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def candidates(z: Tensor, tau: float, memory: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The candidates of NT-Xent (SimCLR, eq. 1): every other view, and optionally a memory (SimCLRv2, 2.1).

    NT-Xent is the cross-entropy of what this returns: the mean over the 2N views of
    -s_ip + log sum_{k != i} exp(s_ik), where p is the positive of i. It is ln(2N - 1) when all z are equal.
    The authors' code returns twice this value, the sum over both directions.

    Args:
        z: (2N, d), the N first views, then the N second views in the same order; any scale per row.
        tau: temperature, above 0.
        memory: (K, d) unit rows, further negatives; None: no memory.

    Returns:
        (2N, 2N + K) float32 similarities s_ij = cos(z_i, z_j) / tau, and (2N,) int64 the column of each row's
        positive. The diagonal is -inf, because a view is no candidate for itself.
    """
    n = len(z) // 2
    # No autocast: bf16 has 8 significant bits, which are too few for a softmax of s / tau.
    with torch.autocast(z.device.type, enabled=False):
        u = F.normalize(z.float(), dim=1)
        s = u @ u.T / tau
        s = s.masked_fill(torch.eye(2 * n, dtype=torch.bool, device=z.device), -torch.inf)
        if memory is not None:
            s = torch.cat([s, u @ memory.T / tau], dim=1)
    return s, torch.arange(2 * n, device=z.device).roll(n)


def against_queue(q: Tensor, k: Tensor, queue: Tensor, tau: float) -> Tensor:
    """The candidates of MoCo's InfoNCE (arXiv 1911.05722, eq. 1): a query's own key, then the queue.

    Args:
        q: (N, d) queries, any scale per row.
        k: (N, d) their keys in the same order, any scale per row. They get no gradient.
        queue: (K, d) unit rows, the negatives.
        tau: temperature, above 0.

    Returns:
        (N, 1 + K) float32 similarities cos / tau, with the positive in column 0.
    """
    with torch.autocast(q.device.type, enabled=False):
        u, v = F.normalize(q.float(), dim=1), F.normalize(k.detach().float(), dim=1)
        return torch.cat([(u * v).sum(dim=1, keepdim=True), u @ queue.T], dim=1) / tau


def info_nce(logits: Tensor) -> Tensor:
    """MoCo eq. 1: mean over queries of -log softmax(logits) at column 0.

    Args:
        logits: (N, 1 + K) float32, as `against_queue` returns them.

    Returns:
        Scalar float32. It is ln(1 + K) when all similarities are equal.
    """
    return (logits.logsumexp(dim=1) - logits[:, 0]).mean()
