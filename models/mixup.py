"""Mix-up (Zhang et al. 2018, arXiv 1710.09412): blend each image with another one of its batch."""

from __future__ import annotations

import torch
from torch import Tensor


def partners(n: int, alpha: float) -> tuple[float, Tensor]:
    """Draw whom each of n images is blended with, and by how much. One share holds for the whole batch.

    The draws are torch's, whose generator the engine seeds for each step.

    Args:
        n: number of images.
        alpha: both parameters of the Beta distribution of the share, above 0. The share is folded at a half,
            so that each image keeps most of itself.

    Returns:
        The other image's share, 0 to 0.5; and (n,) int64, the position of the other image.
    """
    a = torch.tensor(alpha, dtype=torch.float64)
    share = float(torch.distributions.Beta(a, a).sample())
    return min(share, 1 - share), torch.randperm(n)
