"""Signs that a network's outputs become alike: measured in every step on what is at hand, judged after every epoch.

The same measures, over all images, are the evaluation `health` (models/evaluation/health.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

SPREAD, RANK, USED = 0.05, 1.5, 0.05
"""Below these outputs count as alike; untrained networks have a spread of 0.1 and more, and a rank of 3 and more."""
ROWS = 128
"""Outputs of a step whose rank is taken: enough to tell 1 from many, and under a millisecond or two."""


def signs(z: Tensor) -> dict[str, Tensor]:
    """What a method logs of its outputs: `spread` and `effective_rank`.

    Args:
        z: (B, d) float.
    """
    return {"spread": spread(z), "effective_rank": effective_rank(z)}


def spread(z: Tensor) -> Tensor:
    """How far representations are from one point: sqrt(d) times the mean standard deviation of unit rows' columns.

    Chen and He, arXiv 2011.10566, section 4.1, times sqrt(d).

    Args:
        z: (B, d).

    Returns:
        Scalar float32: about 1 for directions spread over the sphere, 0 when all rows point the same way.
    """
    u = F.normalize(z.detach().float(), dim=1)
    return u.std(dim=0, correction=0).mean() * math.sqrt(z.shape[1])


def effective_rank(z: Tensor) -> Tensor:
    """How many dimensions the first `ROWS` rows use; sees that all lie on a line, which `spread` does not.

    exp of the entropy of the singular values' shares (RankMe, Garrido et al., arXiv 2210.02885, eq. 1).

    Args:
        z: (B, d).

    Returns:
        Scalar float64, 1 to min(B, d, ROWS); 0 if z is not finite.
    """
    x = z.detach()[:ROWS].double()
    gram = x @ x.T if len(x) < x.shape[1] else x.T @ x
    # What is not finite is the engine's to tell: the decomposition would raise an error of its own.
    finite = gram.isfinite().all()
    singular = torch.linalg.eigvalsh(gram.nan_to_num(0, 0, 0)).clamp_min(0).sqrt()
    # Singular values come out of the Gram matrix with an error of about 1e-8 of the largest.
    singular = torch.where(singular > 1e-7 * singular[-1], singular, 0)
    share = singular / singular.sum().clamp_min(torch.finfo(gram.dtype).tiny)
    return torch.where(finite, torch.special.entr(share).sum().exp(), 0)


def alike(means: Mapping[str, float]) -> str | None:
    """Whether outputs are alike, by the logged `spread` and `effective_rank`.

    Args:
        means: of everything that was logged in an epoch.

    Returns:
        The measure in words, or None if all is well.
    """
    spread, rank = means.get("spread", math.inf), means.get("effective_rank", math.inf)
    if spread < SPREAD:
        return f"spread of the outputs {spread:.3f}, healthy is 0.3 to 1"
    return f"effective rank of the outputs {rank:.2f}, where 1 is a line" if rank < RANK else None


def few_used(means: Mapping[str, float]) -> str | None:
    """The same for codes: whether nearly all images share a label, by the logged `codes_used`."""
    used = means.get("codes_used", math.inf)
    return f"share of labels used {used:.3f}, healthy is 0.3 to 1" if used < USED else None
