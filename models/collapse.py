"""Signs that a network's outputs become alike. They are measured in every step and judged after every epoch.

The evaluation `health` (models/evaluation/health.py) computes the same measures over all images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

SPREAD, RANK, USED = 0.05, 1.5, 0.05
"""Below these values outputs count as alike. Untrained networks have a spread >= 0.1 and a rank >= 3."""
ROWS = 128
"""Rows of a step's outputs used for the rank: enough to tell 1 from many, in about 1 or 2 ms."""


def signs(z: Tensor) -> dict[str, Tensor]:
    """What a method logs about its outputs: `spread` and `effective_rank`.

    Args:
        z: (B, d) outputs, any float type.
    """
    return {"spread": spread(z), "effective_rank": effective_rank(z)}


def spread(z: Tensor) -> Tensor:
    """How far outputs are from one point: sqrt(d) times the mean standard deviation of unit rows' columns.

    The measure is that of Chen and He, arXiv 2011.10566, section 4.1, times sqrt(d).

    Args:
        z: (B, d).

    Returns:
        Scalar float32: about 1 for directions spread over the sphere, 0 when all rows point the same way.
    """
    u = F.normalize(z.detach().float(), dim=1)
    return u.std(dim=0, correction=0).mean() * math.sqrt(z.shape[1])


def effective_rank(z: Tensor) -> Tensor:
    """How many dimensions the first `ROWS` rows use. It detects outputs on a line; `spread` does not.

    It is exp of the entropy of the singular values' shares (RankMe, Garrido et al., arXiv 2210.02885, eq. 1).

    Args:
        z: (B, d).

    Returns:
        Scalar float64, 1 to min(B, d, ROWS); 0 if z is not finite.
    """
    x = z.detach()[:ROWS].double()
    gram = x @ x.T if len(x) < x.shape[1] else x.T @ x
    # The engine reports values that are not finite. The decomposition would raise its own error here.
    finite = gram.isfinite().all()
    singular = torch.linalg.eigvalsh(gram.nan_to_num(0, 0, 0)).clamp_min(0).sqrt()
    # Singular values computed from the Gram matrix have an error of about 1e-8 of the largest one.
    singular = torch.where(singular > 1e-7 * singular[-1], singular, 0)
    share = singular / singular.sum().clamp_min(torch.finfo(gram.dtype).tiny)
    return torch.where(finite, torch.special.entr(share).sum().exp(), 0)


def alike(means: Mapping[str, float]) -> str | None:
    """Whether outputs are alike, judged by the logged `spread` and `effective_rank`.

    Args:
        means: mean of each value that was logged in an epoch.

    Returns:
        The measure in words, or None if all is well.
    """
    spread, rank = means.get("spread", math.inf), means.get("effective_rank", math.inf)
    if spread < SPREAD:
        return f"spread of the outputs {spread:.3f}, healthy is 0.3 to 1"
    return f"effective rank of the outputs {rank:.2f}, where 1 is a line" if rank < RANK else None


def few_used(means: Mapping[str, float]) -> str | None:
    """Whether nearly all images share a code, judged by the logged `codes_used`."""
    used = means.get("codes_used", math.inf)
    return f"share of labels used {used:.3f}, healthy is 0.3 to 1" if used < USED else None
