"""Prototypes on the unit sphere (SwAV, DeepCluster-v2): a method's own classes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.method import Progress


class Prototypes(nn.Module):
    """K unit vectors C. Fresh ones come from torch's global generator.

    Args:
        count: K.
        dim: d.
        trained: whether they are trained by gradient. Otherwise the owner sets them with `place`.
    """

    def __init__(self, count: int, dim: int, *, trained: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(F.normalize(torch.randn(count, dim), dim=1), requires_grad=trained)

    def forward(self, z: Tensor) -> Tensor:
        """(..., d) unit rows -> (..., K) float32 cosines z C^T.

        Computed outside autocast, because cosines are divided by 0.05 and bf16 is too coarse for that.
        """
        with torch.autocast(z.device.type, enabled=False):
            return z.float() @ self.weight.T

    @torch.no_grad()
    def place(self, centroids: Tensor) -> None:
        """Set the prototypes to (K, d) unit rows."""
        self.weight.copy_(centroids)

    def freeze(self) -> None:
        """Before an update: leave the weights out of it. Without a gradient, no momentum builds up either."""
        self.weight.grad = None

    @torch.no_grad()
    def renormalise(self) -> None:
        """After an update: scale to unit length, outside the optimizer. Without a gradient, do nothing."""
        if self.weight.grad is not None:
            self.weight.copy_(F.normalize(self.weight, dim=1))


def frozen(progress: Progress, epochs: float) -> bool:
    """Whether training is still in its first `epochs` passes. `epochs` need not be a whole number."""
    return progress.step * progress.epochs < epochs * progress.steps


def share_used(label: Tensor, k: int) -> Tensor:
    """Share of the possible labels that are used: distinct values / min(k, number of labels).

    Args:
        label: (n,) int64 in 0..k-1.
        k: number of labels that exist.

    Returns:
        Scalar float32, from 1 / min(k, n) to 1, on the device of `label`. Nothing is read back from the
        device.
    """
    used = torch.zeros(k, device=label.device).index_fill_(0, label, 1.0)
    return used.sum() / min(k, len(label))
