"""Projections of features to the plane of a map: PCA, and t-SNE of the package openTSNE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Projection = Literal["pca", "tsne"]
PERPLEXITY = 30.0
"""Number of neighbours, about, that t-SNE keeps near each point."""


@dataclass(frozen=True)
class Plane:
    """Points in the plane.

    Attributes:
        xy: (N, 2) float32.
        explained: share of the variance along each of the two axes, in [0, 1]; None if axes have no meaning.
    """

    xy: NDArray[np.float32]
    explained: tuple[float, float] | None


def unit(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Divide each row of (N, D) by its length. A row of zeros stays one."""
    length = np.maximum(np.linalg.norm(x, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return np.asarray(x / length, np.float32)


def project(x: NDArray[np.float32], projection: Projection, *, seed: int) -> Plane:
    """Project features of length 1 to the plane.

    Args:
        x: (N, D) float32, N and D at least 1. Rows are divided by their lengths first, as for kNN.
        projection: pca or tsne.
        seed: of t-SNE; at least 0. PCA draws nothing.
    """
    x = unit(x)
    flat = _pca(x)
    return flat if projection == "pca" else Plane(_tsne(x, flat.xy, seed), None)


def _pca(x: NDArray[np.float32]) -> Plane:
    """The first two principal components. Missing ones (N or D below 2, no variance) are 0."""
    from sklearn.decomposition import PCA

    n, d = x.shape
    xy, explained = np.zeros((n, 2), np.float32), [0.0, 0.0]
    wide = x.astype(np.float64)
    total = float(wide.var(axis=0, ddof=1).sum()) if n > 1 else 0.0
    if total > 1e-12:
        kept = min(2, n, d)
        fitted = PCA(kept, svd_solver="covariance_eigh").fit(wide)
        xy[:, :kept] = fitted.transform(wide)
        explained[:kept] = (fitted.explained_variance_ / total).tolist()
    return Plane(xy, (explained[0], explained[1]))


def _tsne(x: NDArray[np.float32], start: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """t-SNE that starts from the principal components, so that it keeps the large structure, too."""
    from openTSNE import TSNE

    if len(x) < 4 or not start.any():
        return start
    start = start / start[:, 0].std() * 1e-4
    found = TSNE(
        perplexity=min(PERPLEXITY, (len(x) - 1) / 3),
        metric="euclidean",  # not cosine: openTSNE would square it, and divide rows of zeros by 0
        negative_gradient_method="bh",
        neighbors="exact",
        random_state=seed % 2**32,
        n_jobs=1,  # a second thread changes the last digits
    ).fit(x, initialization=start.astype(np.float64))
    return np.asarray(found, np.float32)
