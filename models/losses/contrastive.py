"""Contrastive losses. Symbols: N images, two views each, z (2N, d) projections, K stored negatives, tau temperature."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def candidates(z: Tensor, tau: float, memory: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The candidates of NT-Xent (SimCLR, eq. 1): every other view, and a memory of negatives if there is one (SimCLRv2, 2.1).

    NT-Xent is the cross-entropy of what this returns: the mean over the 2N views of -s_ip + log sum_{k != i} exp(s_ik),
    p the positive of i. It is ln(2N - 1) when all z are equal. The authors' code returns twice this value, the sum over
    both directions.

    Args:
        z: (2N, d), the N first views, then the N second views in the same order; any scale per row.
        tau: temperature, above 0.
        memory: (K, d) unit rows, or none.

    Returns:
        (2N, 2N + K) float32 similarities s_ij = cos(z_i, z_j) / tau, -inf on the diagonal since a view is no candidate
        for itself, and (2N,) int64, the column of each row's positive.
    """
    n = len(z) // 2
    with torch.autocast(z.device.type, enabled=False):  # bf16 has 8 bits: too few for a softmax of s / tau
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
        k: (N, d) their keys in the same order, any scale per row; no gradient goes there.
        queue: (K, d) unit rows, the negatives.
        tau: temperature, above 0.

    Returns:
        (N, 1 + K) float32 similarities cos / tau, the positive in column 0.
    """
    with torch.autocast(q.device.type, enabled=False):
        u, v = F.normalize(q.float(), dim=1), F.normalize(k.detach().float(), dim=1)
        return torch.cat([(u * v).sum(dim=1, keepdim=True), u @ queue.T], dim=1) / tau


def info_nce(logits: Tensor) -> Tensor:
    """MoCo eq. 1: mean over queries of -log softmax(logits) at column 0.

    Args:
        logits: (N, 1 + K) float32, as from `against_queue`.

    Returns:
        Scalar float32; ln(1 + K) when all similarities are equal.
    """
    return (logits.logsumexp(dim=1) - logits[:, 0]).mean()
