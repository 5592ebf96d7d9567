"""Contrastive losses. Symbols: N images, two views each, z (2N, d) projections, tau temperature."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def candidates(z: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    """Every view against every other one.

    Args:
        z: (2N, d), the N first views, then the N second views in the same order; any scale per row.
        tau: temperature, above 0.

    Returns:
        (2N, 2N) float32 similarities s_ij = cos(z_i, z_j) / tau, -inf on the diagonal since a view is no candidate for
        itself, and (2N,) int64, the column of each row's positive.
    """
    n = len(z) // 2
    with torch.autocast(z.device.type, enabled=False):  # bf16 has 8 bits: too few for a softmax of s / tau
        u = F.normalize(z.float(), dim=1)
        s = u @ u.T / tau
    s = s.masked_fill(torch.eye(2 * n, dtype=torch.bool, device=z.device), -torch.inf)
    return s, torch.arange(2 * n, device=z.device).roll(n)


def nt_xent(z: Tensor, tau: float) -> Tensor:
    """SimCLR eq. 1: mean over the 2N views of -s_ip + log sum_{k != i} exp(s_ik), p the positive of i.

    The authors' code returns twice this value, the sum over both directions.

    Args:
        z: (2N, d), the N first views, then the N second views in the same order.
        tau: temperature, above 0.

    Returns:
        Scalar float32; ln(2N - 1) when all z are equal.
    """
    return F.cross_entropy(*candidates(z, tau))
