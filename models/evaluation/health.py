"""Signs of collapse in features, without labels: how many dimensions they really use."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from data.errors import ArtifactError

_ROWS = 4096


def health(x: NDArray[np.float32]) -> dict[str, float]:
    """Spread and rank of the features of N images.

    Args:
        x: (N, D) float, N >= 2.

    Returns:
        `feature_std`: standard deviation of the unit vectors x / ‖x‖ per dimension, averaged over dimensions, times
        sqrt(D); near 1 if they are spread over the sphere, 0 if all are one (Chen and He 2021, section 4.1) ·
        `effective_rank`: exp of the entropy of the singular values' shares (RankMe, Garrido et al. 2023, eq. 1), 1 to
        min(N, D).

    Raises:
        ArtifactError: fewer than two vectors, or values that are not finite.
    """
    n, d = x.shape
    if n < 2:
        raise ArtifactError(f"health of features: needs two vectors or more, got {n}")
    total, squares, gram = np.zeros(d), np.zeros(d), np.zeros((d, d))
    for start in range(0, n, _ROWS):
        block = x[start : start + _ROWS].astype(np.float64)
        if not np.isfinite(block).all():
            raise ArtifactError("health of features: values that are not finite")
        gram += block.T @ block
        length = np.linalg.norm(block, axis=1, keepdims=True)
        unit = block / np.where(length > 0, length, 1)
        total += unit.sum(axis=0)
        squares += np.square(unit).sum(axis=0)
    variance = np.maximum(squares / n - np.square(total / n), 0)
    singular = np.sqrt(np.maximum(np.linalg.eigvalsh(gram), 0))
    # Singular values come out of the Gram matrix with an error of about 1e-8 of the largest.
    share = singular[singular > 1e-7 * singular[-1]] / max(singular.sum(), np.finfo(np.float64).tiny)
    return {
        "feature_std": float(np.sqrt(variance).mean() * np.sqrt(d)),
        "effective_rank": float(np.exp(-(share * np.log(share)).sum())),
    }
