"""Losses between a teacher's and a student's probabilities. Symbols: C classes, tau temperature."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def sharpen(p: Tensor, tau: float) -> Tensor:
    """softmax(logits / tau) from p = softmax(logits): p^(1/tau), renormalised.

    Args:
        p: (B, C) probabilities, any float type. Rows need not sum to exactly 1.
        tau: temperature. Below 1 it sharpens, above 1 it softens.

    Returns:
        (B, C) float32, rows sum to 1.
    """
    return torch.softmax(p.float().clamp_min(torch.finfo(torch.float32).tiny).log() / tau, dim=1)


def soft_cross_entropy(logits: Tensor, p: Tensor, tau: float) -> Tensor:
    """SimCLRv2 eq. 2 and 3: mean over images of -sum_y P_T(y | x; tau) log P_S(y | x; tau).

    As in the paper there is no factor tau^2. (The authors' notebook has one, at tau = 1.) So the gradient of
    the student's logits scales with 1 / tau, and with `alpha` below 1 a small tau gives distillation more
    weight.

    Args:
        logits: (B, C), the student's.
        p: (B, C), the teacher's probabilities at temperature 1.
        tau: temperature of both.

    Returns:
        Scalar float32, at least the teacher's mean entropy at tau.
    """
    return F.cross_entropy(logits.float() / tau, sharpen(p, tau))


def labelled_cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Mean cross-entropy over the labelled rows. It is 0, with a gradient of 0, if there are none.

    Args:
        logits: (B, C).
        label: (B,) int64, -1 for an image without label.

    Returns:
        Scalar float32.
    """
    total = F.cross_entropy(logits.float(), label, ignore_index=-1, reduction="sum")
    return total / (label != -1).sum().clamp_min(1)
