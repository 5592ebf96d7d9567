"""The nearest centroids of each point, by exact search in L2.

faiss computes ‖y - c‖² as ‖y‖² - 2 y·c + ‖c‖² in float32, which loses all digits of a small distance between large
vectors. So points and centroids are shifted to the centroids' mean before the search, and `nearest_two` measures the
few candidates found once more by their differences.
"""

from __future__ import annotations

from typing import Any, Literal

import faiss
import numpy as np
from numpy.typing import NDArray

from data.errors import ArtifactError, ConfigError

Device = Literal["auto", "cpu", "cuda"]

_ROWS = 65_536
"""Points given to faiss at once."""
_CANDIDATES = 4
"""Centroids measured again per point. More than two, so that a near tie in float32 is still decided exactly."""


def on_gpu(device: Device) -> bool:
    """Whether to search on the GPU.

    Raises:
        ConfigError: cuda was asked for and faiss sees none.
    """
    if device == "cpu":
        return False
    found = faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0
    if device == "cuda" and not found:
        raise ConfigError("compute.device is cuda, but faiss sees no GPU: use auto or cpu, or install faiss for GPUs")
    return found > 0


def check_points(name: str, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, d) float, returned as contiguous float32, not copied if it is that already.

    Raises:
        ArtifactError: not a matrix, or a value is NaN or infinite.
    """
    if x.ndim != 2:
        raise ArtifactError(f"{name}: expected a matrix of one vector per row, got shape {x.shape}")
    x = np.ascontiguousarray(x, dtype=np.float32)
    for start in range(0, len(x), _ROWS):
        bad = np.flatnonzero(~np.isfinite(x[start : start + _ROWS]).all(axis=1))
        if len(bad):
            raise ArtifactError(
                f"{name}: row {start + bad[0]} holds a value that is not finite; remake the features, and look at the "
                "training that made their network"
            )
    return x


class CentroidIndex:
    """Exact L2 search among k centroids, on the CPU or on the first GPU (never on all of them)."""

    _index: Any

    def __init__(self, d: int, device: Device = "auto") -> None:
        """Search in d dimensions; `place` gives the centroids."""
        if on_gpu(device):
            self._resources = faiss.StandardGpuResources()  # must outlive the index
            config = faiss.GpuIndexFlatConfig()
            config.device = 0
            self._index = faiss.GpuIndexFlatL2(self._resources, d, config)
        else:
            self._index = faiss.IndexFlatL2(d)

    def place(self, centroids: NDArray[np.float32]) -> None:
        """Replace the centroids. (k, d) float32."""
        self._shift = centroids.mean(axis=0, dtype=np.float64).astype(np.float32)
        self._index.reset()
        self._index.add(np.ascontiguousarray(centroids - self._shift))

    def search(self, y: NDArray[np.float32], m: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """(n, d) float32 -> squared distances (n, m) float32, ascending and at least 0, and centroids (n, m) int64."""
        distance = np.empty((len(y), m), np.float32)
        centroid = np.empty((len(y), m), np.int64)
        for start in range(0, len(y), _ROWS):
            rows = slice(start, start + _ROWS)
            self._index.search(y[rows] - self._shift, m, D=distance[rows], I=centroid[rows])
        return np.maximum(distance, 0, out=distance), centroid


def nearest_two(
    y: NDArray[np.float32], centroids: NDArray[np.float32], device: Device = "auto"
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]]:
    """Nearest centroid of each point, and the squared L2 distances to it and to the second nearest.

    Args:
        y: (n, d) float32, in clustering space.
        centroids: (k, d) float32, k >= 1.
        device: where faiss searches.

    Returns:
        cluster (n,) int32, distance (n,) float32, runner_up (n,) float32 with runner_up >= distance. Of equally near
        centroids the lower id wins. With k = 1 there is no second: runner_up is inf.

    Raises:
        ArtifactError: a value is not finite, or points and centroids differ in width.
        ConfigError: cuda was asked for and faiss sees none.
    """
    y, centroids = check_points("points", y), check_points("centroids", centroids)
    if y.shape[1] != centroids.shape[1]:
        raise ArtifactError(f"points have {y.shape[1]} columns, centroids {centroids.shape[1]}: made in other spaces")
    k, d = centroids.shape
    index = CentroidIndex(d, device)
    index.place(centroids)
    cluster = np.empty(len(y), np.int32)
    distance = np.empty(len(y), np.float32)
    runner_up = np.full(len(y), np.inf, np.float32)
    size = max(1, 2**22 // d)
    for start in range(0, len(y), size):
        rows = slice(start, start + size)
        _, near = index.search(y[rows], min(k, _CANDIDATES))
        near.sort(axis=1)  # by id, so that a stable sort by distance leaves the lower id first
        measured = np.stack([_squared(y[rows] - centroids[near[:, j]]) for j in range(near.shape[1])], axis=1)
        order = np.argsort(measured, axis=1, kind="stable")[:, :2]
        cluster[rows] = np.take_along_axis(near, order[:, :1], axis=1)[:, 0]
        measured = np.take_along_axis(measured, order, axis=1)
        distance[rows] = measured[:, 0]
        if k > 1:
            runner_up[rows] = measured[:, 1]
    return cluster, distance, runner_up


def _squared(difference: NDArray[np.float32]) -> NDArray[np.float32]:
    squares: NDArray[np.float32] = np.einsum("nd,nd->n", difference, difference)
    return squares
