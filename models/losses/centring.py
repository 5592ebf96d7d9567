"""What DINO makes of a teacher's scores. Symbols: K outputs, c (K,) centre, tau temperature."""

from __future__ import annotations

import torch
from torch import Tensor


def centred_softmax(g: Tensor, c: Tensor, tau: float) -> Tensor:
    """DINO's teacher: softmax((g - c) / tau) (arXiv 2104.14294, section 3.1).

    The centre keeps one output from winning everywhere, tau below the student's temperature all from being alike.

    Args:
        g: (..., K) scores.
        c: (K,) their moving average.
        tau: temperature, above 0.

    Returns:
        (..., K) float32 (float64 for float64 scores) without gradient, rows sum to 1.
    """
    with torch.autocast(g.device.type, enabled=False):
        g = g.detach() if g.dtype == torch.float64 else g.detach().float()
        return torch.softmax((g - c) / tau, dim=-1)


def entropies(p: Tensor) -> tuple[Tensor, Tensor]:
    """How sure each row is, and how much rows differ.

    Args:
        p: (n, K), rows sum to 1.

    Returns:
        Mean entropy of the rows and entropy of the mean row, in nats, 0 to ln K; the second is never the smaller one, and
        by their difference rows tell images apart (mutual information).
    """
    each = -torch.xlogy(p, p).sum(dim=1).mean()
    mean = p.mean(dim=0)
    return each, -torch.xlogy(mean, mean).sum()
