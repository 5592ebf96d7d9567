"""Regression of one view's embedding on another's (BYOL, Momentum² Teacher)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def normalised_regression(p: Tensor, z: Tensor) -> Tensor:
    """BYOL eq. 2: mean over images of |p / |p| - z / |z||^2 = 2 - 2 cos(p, z).

    Args:
        p: (B, d) predictions, any scale per row.
        z: (B, d) targets, any scale per row. They get no gradient.

    Returns:
        Scalar float32 from 0 (parallel) to 4 (opposite). Unrelated rows give about 2.
    """
    with torch.autocast(p.device.type, enabled=False):
        return 2 - 2 * F.cosine_similarity(p.float(), z.detach().float(), dim=1).mean()
