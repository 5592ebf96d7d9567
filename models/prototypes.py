"""Prototypes on the unit sphere (SwAV, DeepCluster-v2): the classes that a method invents."""

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
        trained: whether by gradient; otherwise whoever holds them places them.
    """

    def __init__(self, count: int, dim: int, *, trained: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(F.normalize(torch.randn(count, dim), dim=1), requires_grad=trained)

    def forward(self, z: Tensor) -> Tensor:
        """(..., d) unit rows -> (..., K) float32 cosines z C^T, outside autocast: divided by 0.05 they need their digits."""
        with torch.autocast(z.device.type, enabled=False):
            return z.float() @ self.weight.T

    @torch.no_grad()
    def place(self, centroids: Tensor) -> None:
        """(K, d) unit rows from elsewhere."""
        self.weight.copy_(centroids)

    def freeze(self) -> None:
        """Before an update: leave the weights out of it. No gradient rather than no rate, so no momentum builds up."""
        self.weight.grad = None

    @torch.no_grad()
    def renormalise(self) -> None:
        """After an update: back to unit length, outside the optimizer. Weights that were not moved stay bit for bit."""
        if self.weight.grad is not None:
            self.weight.copy_(F.normalize(self.weight, dim=1))


def frozen(progress: Progress, epochs: float) -> bool:
    """Whether training still is in its first `epochs` passes, which need not be whole."""
    return progress.step * progress.epochs < epochs * progress.steps


def share_used(label: Tensor, k: int) -> Tensor:
    """How many of the labels that could be used are: distinct values / min(k, number of labels).

    Args:
        label: (n,) int64 in 0..k-1.
        k: labels there are.

    Returns:
        Scalar float32, 1 / min(k, n) to 1; without a read from the device.
    """
    used = torch.zeros(k, device=label.device).index_fill_(0, label, 1.0)
    return used.sum() / min(k, len(label))
