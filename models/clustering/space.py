"""The space in which features are clustered: PCA, whitening, L2 (DeepCluster, Caron et al. 2018, section 4).

y = (x - mean) @ matrix, then y / ‖y‖. Each of the two steps is optional.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.errors import ArtifactError

EPSILON = 1e-6
"""Added to each eigenvalue before whitening, times the largest eigenvalue.

A direction with less than a thousandth of the largest deviation is noise of the network's precision. It must
not be scaled to unit variance.
"""
_RANK = 1e-12
"""Eigenvalues up to this times the largest count as zero."""


@dataclass(frozen=True)
class ClusterSpace:
    """A fixed map from features to clustering space.

    Attributes:
        mean: (D,) float32, or None.
        matrix: (D, d) float32, or None.
        normalise: whether y is scaled to length 1. A zero vector stays zero.
    """

    mean: NDArray[np.float32] | None
    matrix: NDArray[np.float32] | None
    normalise: bool

    def apply(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, D) float -> (n, d) float32, always a new array.

        Raises:
            ArtifactError: x has a different width from the features that the space was fitted to.
        """
        for part in (self.mean, self.matrix):
            if part is not None and x.shape[1] != len(part):
                raise ArtifactError(
                    f"features have {x.shape[1]} columns, the clustering space was fitted to {len(part)}: "
                    "they come from another network or layer"
                )
        y = np.array(x, dtype=np.float32)
        if self.mean is not None:
            y -= self.mean
        if self.matrix is not None:
            y = y @ self.matrix
        if self.normalise:
            length = np.sqrt(np.einsum("nd,nd->n", y, y, dtype=np.float64))
            y /= np.where(length > 0, length, 1).astype(np.float32)[:, None]
        return y

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """The parts that exist, with the names `mean` and `matrix`."""
        return {
            name: part for name, part in (("mean", self.mean), ("matrix", self.matrix)) if part is not None
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.float32]], normalise: bool) -> ClusterSpace:
        """The inverse of `arrays`."""
        return cls(arrays.get("mean"), arrays.get("matrix"), normalise)


def fit_space(
    blocks: Callable[[], Iterator[NDArray[np.float32]]],
    pca: int | None,
    normalise: bool,
    whitening: float = 1.0,
) -> ClusterSpace:
    """Fit PCA in two passes over the features: first the mean, then the covariance, both in float64.

    Memory holds a D x D matrix and one block.

    Args:
        blocks: called once per pass. It yields the features as blocks (n, D). It is not called if `pca` is
            None.
        pca: maximum number d of directions to keep. If the features span fewer, fewer are kept, and
            `matrix.shape[1]` says how many. None: neither mean nor matrix.
        normalise: see `ClusterSpace`.
        whitening: w from 0 to 1, how far the kept directions are scaled to equal variance:
            matrix = V (eigenvalue + EPSILON largest)^(-w / 2).

    Raises:
        ArtifactError: there are no features, some values are not finite, or all vectors are equal.
    """
    if pca is None:
        return ClusterSpace(None, None, normalise)
    n, total = 0, np.zeros(0)
    for block in blocks():
        total = (total if n else 0.0) + block.sum(axis=0, dtype=np.float64)
        n += len(block)
    if n == 0:
        raise ArtifactError("no features to fit the clustering space to")
    mean = total / n
    if not np.isfinite(mean).all():
        raise ArtifactError(
            "the features hold values that are not finite; look at the training of their network"
        )
    covariance = np.zeros((len(mean), len(mean)))
    for block in blocks():
        centred = block - mean
        covariance += centred.T @ centred
    covariance /= n
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = values[::-1], vectors[:, ::-1]
    # float32 features have rounding noise relative to the square of the mean.
    rank = int((values > _RANK * max(values[0], float(np.square(mean).max()))).sum())
    if rank == 0:
        raise ArtifactError(
            f"all {n} feature vectors are equal: the network that made them has collapsed; "
            "train it again with a lower learning rate or another temperature"
        )
    values, vectors = values[: min(pca, rank)], vectors[:, : min(pca, rank)]
    # eigh leaves the sign open. Make the largest component of each direction positive.
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=0)[None], axis=0)
    matrix = vectors * np.sign(largest)
    matrix = matrix * (values + EPSILON * values[0]) ** (-whitening / 2)
    return ClusterSpace(mean.astype(np.float32), np.ascontiguousarray(matrix, dtype=np.float32), normalise)
