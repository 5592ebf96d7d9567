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
        `spread`, 0 to about 1, and `effective_rank`, 1 to min(N, D): those of models/collapse.py over all images,
        in numpy, since faiss's process has no torch.

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
        "spread": float(np.sqrt(variance).mean() * np.sqrt(d)),
        "effective_rank": float(np.exp(-(share * np.log(share)).sum())),
    }
