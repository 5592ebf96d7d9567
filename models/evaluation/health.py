"""Health of features, without labels: rank, spread over the sphere, stability between views."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from data import draws
from data.errors import ArtifactError

_ROWS = 4096
_EVEN = 4096
"""Maximum number of images for uniformity, which compares all pairs."""


def health(x: NDArray[np.float32]) -> dict[str, float]:
    """Spread and rank of the features of N images.

    Args:
        x: (N, D) float, N >= 2.

    Returns:
        `spread`, 0 to about 1, and `effective_rank`, 1 to min(N, D). They are the measures of
        models/collapse.py over all images, but in numpy, because the process that runs faiss has no torch.

    Raises:
        ArtifactError: there are fewer than two vectors, or some values are not finite.
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
    # Singular values computed from the Gram matrix have an error of about 1e-8 of the largest one.
    share = singular[singular > 1e-7 * singular[-1]] / max(singular.sum(), np.finfo(np.float64).tiny)
    return {
        "spread": float(np.sqrt(variance).mean() * np.sqrt(d)),
        "effective_rank": float(np.exp(-(share * np.log(share)).sum())),
    }


def uniformity(x: NDArray[np.float32], t: float = 2.0) -> float:
    """Log of the mean of exp(-t ‖z_i - z_j‖²) over pairs of unit vectors (Wang and Isola 2020, eq. 4).

    Args:
        x: (N, D) float, N >= 2. It is scaled to unit rows here. If N is above 4096, a fixed selection of 4096
            rows is used.
        t: above 0; 2 in the paper.

    Returns:
        0 if all vectors are equal, down to about -2 t (1 - 1 / D) if they fill the sphere evenly.

    Raises:
        ArtifactError: there are fewer than two vectors.
    """
    if len(x) < 2:
        raise ArtifactError(f"uniformity of features: needs two vectors or more, got {len(x)}")
    chosen = np.sort(draws.permutation(draws.key(0, "uniformity"), len(x))[:_EVEN])
    z = _unit(x[chosen])
    total = 0.0
    for start in range(0, len(z), 512):
        block = z[start : start + 512]
        total += float(np.exp(-t * np.maximum(0, 2 - 2 * block @ z.T)).sum())
    return float(np.log((total - len(z)) / (len(z) * (len(z) - 1))))  # an image and itself are not a pair


def alignment(x: NDArray[np.float32], y: NDArray[np.float32]) -> float:
    """Mean of ‖z_i - z'_i‖² over two views of each image, unit vectors (Wang and Isola 2020, eq. 3, alpha 2).

    Args:
        x: (N, D) float, features of one view of each image.
        y: (N, D) float, features of another view.

    Returns:
        0 if both views are always equal, 2 if they have nothing in common.
    """
    return float(np.square(_unit(x) - _unit(y)).sum(axis=1).mean())


def _unit(x: NDArray[np.float32]) -> NDArray[np.float64]:
    x = x.astype(np.float64)
    length = np.linalg.norm(x, axis=1, keepdims=True)
    unit: NDArray[np.float64] = x / np.where(length > 0, length, 1)
    return unit
