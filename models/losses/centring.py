"""DINO's teacher probabilities and their entropies. Symbols: K outputs, c (K,) centre, tau temperature."""

from __future__ import annotations

import torch
from torch import Tensor


def centred_softmax(g: Tensor, c: Tensor, tau: float) -> Tensor:
    """DINO's teacher: softmax((g - c) / tau) (arXiv 2104.14294, section 3.1).

    The centre keeps one output from winning for all images. A tau below the student's temperature keeps all
    outputs from becoming equal.

    Args:
        g: (..., K) scores.
        c: (K,) moving average of the scores.
        tau: temperature, above 0.

    Returns:
        (..., K) float32 (float64 for float64 scores), without gradient. Rows sum to 1.
    """
    with torch.autocast(g.device.type, enabled=False):
        g = g.detach() if g.dtype == torch.float64 else g.detach().float()
        return torch.softmax((g - c) / tau, dim=-1)


def entropies(p: Tensor) -> tuple[Tensor, Tensor]:
    """How sure each row is, and how much rows differ.

    Args:
        p: (n, K), rows sum to 1.

    Returns:
        The mean entropy of the rows, and the entropy of the mean row, in nats, 0 to ln K. The second is never
        smaller than the first. Their difference is the mutual information: how well rows tell images apart.
    """
    each = -torch.xlogy(p, p).sum(dim=1).mean()
    mean = p.mean(dim=0)
    return each, -torch.xlogy(mean, mean).sum()
