"""The nearest centroids of each point, by exact search in L2.

faiss computes ‖y - c‖² as ‖y‖² - 2 y·c + ‖c‖² in float32. This loses all digits of a small distance between
large vectors. So points and centroids are first shifted by the mean of the centroids. Then `nearest_two`
recomputes the distances to the few candidates from the differences.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from typing import Any, Literal, Protocol

import faiss
import numpy as np
from numpy.typing import NDArray

from data.errors import ArtifactError, ConfigError
from models.prefetch import prefetch

Device = Literal["auto", "cpu", "cuda"]

BLOCK = 8_192
"""Number of points that a thread searches for at once."""
_TOGETHER = 2048
"""Number of points of one cluster searched for at once, in a search by clusters."""
_CANDIDATES = 4
"""Number of centroids found per point. More than two, so that near ties in float32 can be decided exactly."""
_MEASURED = 2048
"""Number of points compared with their candidates at once. They fit into a core's cache."""


def on_gpu(device: Device) -> bool:
    """Whether to search on the GPU.

    Raises:
        ConfigError: cuda was asked for, but faiss sees no GPU.
    """
    if device == "cpu":
        return False
    found = faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0
    if device == "cuda" and not found:
        raise ConfigError(
            "compute.device is cuda, but faiss sees no GPU: use auto or cpu, or install faiss for GPUs"
        )
    return found > 0


def check_points(name: str, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (N, d) floats as contiguous float32. They are copied only if they are not that already.

    Raises:
        ArtifactError: x is not a matrix, or a value is NaN or infinite.
    """
    if x.ndim != 2:
        raise ArtifactError(f"{name}: expected a matrix of one vector per row, got shape {x.shape}")
    x = np.ascontiguousarray(x, dtype=np.float32)
    for start in range(0, len(x), BLOCK):
        bad = np.flatnonzero(~np.isfinite(x[start : start + BLOCK]).all(axis=1))
        if len(bad):
            raise ArtifactError(
                f"{name}: row {start + bad[0]} holds a value that is not finite; "
                "the file is what was computed, so look at the training that made the features' network"
            )
    return x


class Points(Protocol):
    """Gives rows of an (n, d) float32 matrix: an array, or a selection of rows that is never copied whole."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice | NDArray[np.int64], /) -> NDArray[np.float32]: ...


def searchers(device: Device = "auto") -> ThreadPoolExecutor:
    """Start as many search threads as faiss would use. Each works alone on its part and waits for no other.

    On a GPU there is one thread. The caller closes the executor.

    Raises:
        ConfigError: cuda was asked for, but faiss sees no GPU.
    """
    if on_gpu(device):
        return ThreadPoolExecutor(1)
    alone = partial(faiss.omp_set_num_threads, 1)
    return ThreadPoolExecutor(_threads(device), thread_name_prefix="search", initializer=alone)


def _threads(device: Device) -> int:
    return 1 if on_gpu(device) else max(1, faiss.omp_get_max_threads())


def parts(n: int) -> list[slice]:
    """Split 0 to n into parts for `searchers`. Parts and results don't depend on the number of threads."""
    return [slice(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK)]


class CentroidIndex:
    """Exact L2 search among k centroids, on the CPU or on the first GPU (never on all GPUs).

    Attributes:
        on_gpu: whether it searches on the GPU.
        shift: (d,) float32, mean of the centroids. Everything is shifted by it for the search.
        largest: squared length of the longest centroid after the shift.
    """

    _index: Any
    on_gpu: bool
    shift: NDArray[np.float32]
    largest: float

    def __init__(self, d: int, device: Device = "auto") -> None:
        """Search in d dimensions. `place` sets the centroids."""
        self.on_gpu = on_gpu(device)
        if self.on_gpu:
            self._resources = faiss.StandardGpuResources()  # must outlive the index
            config = faiss.GpuIndexFlatConfig()
            config.device = 0
            self._index = faiss.GpuIndexFlatL2(self._resources, d, config)
        else:
            self._index = faiss.IndexFlatL2(d)

    def place(self, centroids: NDArray[np.float32]) -> None:
        """Replace the centroids by new ones, (k, d) float32."""
        self._centroids = centroids
        self.shift = centroids.mean(axis=0, dtype=np.float64).astype(np.float32)
        shifted = np.ascontiguousarray(centroids - self.shift)
        self.largest = float(_squares(shifted).max())
        self._index.reset()
        self._index.add(shifted)

    def search(self, y: NDArray[np.float32], m: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """(n, d) float32 -> squared distances (n, m) float32, ascending, >= 0, and centroids (n, m) int64.

        The calling thread does all the work. On the CPU several threads may search at once.
        """
        distance, centroid = self._index.search(y - self.shift, m)
        return np.maximum(distance, 0, out=distance), centroid

    def nearest(self, y: Points, threads: Executor) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The nearest centroid (n,) int64 of each point, and faiss's squared distance (n,) float32 to it."""
        cluster, distance = np.empty(len(y), np.int64), np.empty(len(y), np.float32)

        def find(rows: slice) -> None:
            found, near = self.search(y[rows], 1)
            cluster[rows], distance[rows] = near[:, 0], found[:, 0]

        list(threads.map(find, parts(len(y))))
        return cluster, distance

    def nearest_of_neighbours(
        self, y: Points, own: NDArray[np.int64], m: int, threads: Executor
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The nearest among the m centroids that are nearest to a point's own one.

        This is k²-means (Agustsson, Timofte and Van Gool 2017). The result need not be the nearest of all
        centroids, but it is never further than the own one, which is among the m. It takes m / k of the work
        of `nearest`, because the points of a cluster are searched for together. It runs only on the CPU.

        Args:
            y: n points.
            own: (n,) int64, a centroid of each point.
            m: number of centroids to look among, 1 to k.
            threads: see `searchers`.

        Returns:
            As for `nearest`.
        """
        c, k = self._centroids, len(self._centroids)
        found = list(threads.map(lambda rows: self.search(c[rows], m)[1], parts(k)))
        neighbours = np.concatenate(found)
        # If m other centroids are at the same place, a centroid can be missing among its own neighbours.
        lost = np.flatnonzero((neighbours != np.arange(k)[:, None]).all(axis=1))
        neighbours[lost, -1] = lost

        order = np.argsort(own, kind="stable")
        ends = np.searchsorted(own, np.arange(k + 1), sorter=order)
        cluster, distance = np.empty(len(y), np.int64), np.empty(len(y), np.float32)

        def find(of: int) -> None:
            candidates = neighbours[of]
            centroids = c[candidates] - c[of]
            for start in range(ends[of], ends[of + 1], _TOGETHER):
                rows = order[start : min(start + _TOGETHER, ends[of + 1])]
                points = y[rows]
                points -= c[of]  # points and candidates are now near 0, so few digits are lost
                squares, near = faiss.knn(points, centroids, 1)
                cluster[rows], distance[rows] = candidates[near[:, 0]], np.maximum(squares[:, 0], 0)

        list(threads.map(find, range(k)))
        return cluster, distance


class NearestTwo:
    """The nearest of given centroids, and distances to the two nearest: `nearest_two` in several calls."""

    def __init__(self, centroids: NDArray[np.float32], device: Device = "auto") -> None:
        """Set the centroids, (k, d) float32 with k >= 1.

        Raises:
            ArtifactError: a value is not finite.
            ConfigError: cuda was asked for, but faiss sees no GPU.
        """
        self.centroids = check_points("centroids", centroids)
        self._index = CentroidIndex(centroids.shape[1], device)
        self._index.place(self.centroids)

    def __call__(
        self, y: NDArray[np.float32]
    ) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]]:
        """See `nearest_two`. The calling thread does all the work. On the CPU several threads may search.

        Raises:
            ArtifactError: a value is not finite, or points and centroids differ in width.
        """
        y, (k, d) = check_points("points", y), self.centroids.shape
        if y.shape[1] != d:
            raise ArtifactError(
                f"points have {y.shape[1]} columns, centroids {d}: "
                "they were made in different clustering spaces"
            )
        found, near = self._index.search(y, min(k, _CANDIDATES))
        cluster, squares = _two_of(y, self.centroids, near[:, :2])
        if near.shape[1] > 2:
            # Found squares differ from true ones only by rounding, at most by this bound: d products, each
            # with one unit in the last place of ‖y‖² + ‖c‖², and ‖y‖² <= 2 (‖y - c‖² + ‖c‖²). If the third
            # candidate is within this bound of the second, it may in truth be nearer.
            bound = d * 2.0**-22 * (2 * found[:, 0] + 3 * self._index.largest)
            tied = np.flatnonzero(found[:, 2] - found[:, 1] <= bound)
            cluster[tied], squares[tied] = _two_of(y[tied], self.centroids, near[tied])
        runner_up = squares[:, 1] if k > 1 else np.full(len(y), np.inf, np.float32)
        return cluster.astype(np.int32), squares[:, 0], runner_up


def nearest_two(
    y: NDArray[np.float32], centroids: NDArray[np.float32], device: Device = "auto"
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]]:
    """The nearest centroid of each point, and the squared L2 distances to it and to the second nearest.

    Args:
        y: (n, d) float32, in clustering space.
        centroids: (k, d) float32, k >= 1.
        device: where faiss searches.

    Returns:
        cluster (n,) int32, distance (n,) float32, runner_up (n,) float32 with runner_up >= distance. Of
        equally near centroids the one with the lower id wins. With k = 1 there is no second, and runner_up is
        inf.

    Raises:
        ArtifactError: a value is not finite, or points and centroids differ in width.
        ConfigError: cuda was asked for, but faiss sees no GPU.
    """
    measure = NearestTwo(centroids, device)
    with searchers(device) as threads:
        found = list(threads.map(lambda rows: measure(y[rows]), parts(len(y)) or [slice(0, 0)]))
    cluster, distance, runner_up = (np.concatenate(column) for column in zip(*found, strict=True))
    return cluster, distance, runner_up


def nearest_in_blocks(
    blocks: Iterable[tuple[NDArray[np.int64], NDArray[np.float32]]],
    place: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    centroids: NDArray[np.float32],
    device: Device = "auto",
) -> Generator[tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]]]:
    """`nearest_two` for a stream. Only a few blocks more than there are search threads are in memory.

    Args:
        blocks: index (n,) and vectors (n, D), advanced by the caller's thread. Blocks of `BLOCK` rows are
            best.
        place: maps vectors into clustering space. The search threads call it.
        centroids: (k, d) float32, k >= 1.
        device: where faiss searches.

    Yields:
        index, cluster, distance and runner_up of each block, in order.

    Raises:
        ArtifactError: a value is not finite, or points and centroids differ in width.
        ConfigError: cuda was asked for, but faiss sees no GPU.
    """
    nearest = NearestTwo(centroids, device)

    def find(block: tuple[NDArray[np.int64], NDArray[np.float32]]) -> tuple[NDArray[Any], ...]:
        return block[0], *nearest(place(block[1]))

    yield from prefetch(find, blocks, depth=_threads(device), threads=searchers(device))  # type: ignore[misc]


def _two_of(
    y: NDArray[np.float32], centroids: NDArray[np.float32], candidates: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The nearest of a few candidates (n, m), of equals the lower id, and the two smallest squares (n, 2)."""
    # By id, so that a stable sort by distance puts the lower id first.
    candidates = np.sort(candidates, axis=1)
    measured = np.empty(candidates.shape, np.float32)
    difference = np.empty((min(_MEASURED, len(y)), y.shape[1]), np.float32)
    for start in range(0, len(y), _MEASURED):
        rows = slice(start, min(start + _MEASURED, len(y)))
        part = difference[: rows.stop - rows.start]
        for j in range(candidates.shape[1]):
            # All ids are valid. With mode="clip" numpy needs no buffer.
            np.take(centroids, candidates[rows, j], axis=0, out=part, mode="clip")
            np.subtract(y[rows], part, out=part)
            measured[rows, j] = _squares(part)
    order = np.argsort(measured, axis=1, kind="stable")[:, :2]
    nearest = np.take_along_axis(candidates, order[:, :1], axis=1)[:, 0]
    return nearest, np.take_along_axis(measured, order, axis=1)


def _squares(x: NDArray[np.float32]) -> NDArray[np.float32]:
    squares: NDArray[np.float32] = np.einsum("nd,nd->n", x, x)
    return squares
