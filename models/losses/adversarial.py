"""A game of two networks by binary cross-entropy (Goodfellow et al. 2014, arXiv 1406.2661); pure functions of logits."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def judge(true: Tensor, false: Tensor) -> Tensor:
    """What the adversary minimises: -log D(x) - log(1 - D(F)), each as a mean; 2 ln 2 where it can't tell.

    Args:
        true: (B,) logits of images.
        false: (B,) logits of what was made.

    Returns:
        Scalar float32.
    """
    return F.softplus(-true.float()).mean() + F.softplus(false.float()).mean()


def persuade(false: Tensor) -> Tensor:
    """What its opponent minimises: -log D(F), which unlike log(1 - D(F)) has a gradient where D is sure.

    Args:
        false: (B,) logits of what was made.

    Returns:
        Scalar float32.
    """
    return F.softplus(-false.float()).mean()
