"""Binary cross-entropy for two adversaries (Goodfellow et al. 2014, arXiv 1406.2661), from logits."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def judge(true: Tensor, false: Tensor) -> Tensor:
    """The adversary's loss: -log D(x) - log(1 - D(F)), each as a mean. It is 2 ln 2 if D can't tell.

    Args:
        true: (B,) logits of real images.
        false: (B,) logits of generated images.

    Returns:
        Scalar float32.
    """
    return F.softplus(-true.float()).mean() + F.softplus(false.float()).mean()


def persuade(false: Tensor) -> Tensor:
    """The generator's loss: -log D(F). Unlike log(1 - D(F)), it has a gradient when D is sure.

    Args:
        false: (B,) logits of generated images.

    Returns:
        Scalar float32.
    """
    return F.softplus(-false.float()).mean()
