"""K-means: Lloyd's algorithm from a k-means++ start (Arthur and Vassilvitskii 2007), on all given points.

faiss searches for the nearest centroid, but the loop is our own. By default, faiss's loop keeps at most 256
points per centroid. It also moves occupied centroids to fill empty ones, so its objective can rise, and it
adds in float32.

With many points, growing samples improve the start first. Each sample is twice as large as the one before and
begins with its centroids. Few iterations over all points are then left to do.

With many clusters, most iterations look for a point's centroid only among the neighbours of its current one
(k²-means, Agustsson, Timofte and Van Gool 2017), which is a sixteenth of the work. Every eleventh iteration
looks among all centroids. This begins only after the clusters have settled. Otherwise points would stay where
the start put them.

N points x of d dimensions, k centroids c; objective = 1/N sum_i min_j ‖x_i - c_j‖².
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from itertools import pairwise

import faiss
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from data import draws
from data.errors import DataError
from models.clustering.nearest import CentroidIndex, Device, check_points, nearest_two, searchers

_START_POINTS, _LEAST_START_POINTS = 64, 8
"""Maximum and minimum number of points per centroid among which k-means++ looks for the start."""
_START_DISTANCES = 2**24
"""Number of distances that k-means++ may compute within these bounds. It adds one centroid at a time."""
_GROWTH = 2
"""Each sample has this many times the points of the one before."""
_LARGEST_SAMPLE = 4
"""A sample has at most one in this many of all points. If the first would have more, there are none."""
_SAMPLE_ITERATIONS, _SAMPLE_FALL = 10, 1e-3
"""Maximum iterations on a sample, and the share by which each must lower the objective to continue."""
_SETTLED = 0.1
"""Clusters have settled when an iteration moves at most this share of points to other clusters.

From then on, points look among the neighbours of their centroid.
"""
_NEIGHBOURS_SHARE, _LEAST_NEIGHBOURS, _MOST_NEIGHBOURS = 16, 64, 256
"""Number of neighbours: k divided by the first value, at least the second and at most the third."""
_NEAR_POINTS = 16
"""Points look among neighbours only if clusters have this many points on average.

The points of a cluster are searched for together, so small clusters gain nothing.
"""
_NEAR_ITERATIONS = 10
"""After this many iterations among neighbours, or when they gain no more, one looks among all centroids."""
_STRIPES = 8
"""Maximum number of parts for the sums. It doesn't depend on the number of threads, nor does the result."""
_ROUNDING = 1e-6
"""Relative differences of the objective up to this may be due to rounding in float32 distances."""
_ROWS = 4096
"""Minimum number of rows that are summed at once. It sets the size of the float64 copies."""


@dataclass(frozen=True)
class Sample:
    """A sample on which centroids were moved before they were moved on all points.

    Attributes:
        points: number of points, drawn without replacement. A sample contains all samples before it.
        iterations: number of iterations on it.
        objective: on the sample, after these iterations.
    """

    points: int
    iterations: int
    objective: float


@dataclass(frozen=True)
class KMeans:
    """A clustering.

    Attributes:
        centroids: (k, d) float32, all finite.
        sizes: (k,) int64, number of training points nearest to each centroid, as `nearest_two` finds them.
        objective: mean squared distance of points to their centroids after each iteration. It falls from one
            iteration to the next. The last value belongs to `centroids`, and is computed with the nearest
            centroid of each point.
        grown: the samples that improved the start.
        empty: number of centroids that are not the nearest to any training point.
        trained_on: number of training points.
        restart: number of the restart that gave this clustering, from 0.
    """

    centroids: NDArray[np.float32]
    sizes: NDArray[np.int64]
    objective: list[float]
    grown: list[Sample]
    empty: int
    trained_on: int
    restart: int


def kmeans(
    x: NDArray[np.float32],
    k: int,
    *,
    iterations: int = 20,
    restarts: int = 1,
    seed: int = 0,
    device: Device = "auto",
    sample: int | None = None,
    tolerance: float = 0.0,
    report: Callable[[int, float], None] = lambda iteration, objective: None,
) -> KMeans:
    """Cluster x. Of several restarts the one with the lowest objective is kept.

    An iteration moves each centroid to the mean of its points. It moves each centroid without points onto a
    point that is drawn with probability proportional to its squared distance, which is one more step of
    k-means++. Neither move can raise the objective. A restart ends early when no point changes its cluster,
    or when the objective falls by no more than `tolerance`. Both are judged in an iteration in which each
    point looks among all centroids.

    Args:
        x: (N, d) float32. It is not copied unless a sample is drawn.
        k: number of clusters, 1 to N.
        iterations: maximum number of iterations over all points, at least 1.
        restarts: number of runs from different starts, at least 1.
        seed: for all random draws. Equal seeds give equal bits on the same machine's CPU.
        device: where faiss searches. Of several GPUs it uses the first.
        sample: number of points to train on, drawn without replacement; None: all.
        tolerance: share of the objective, at least 0. An iteration must lower the objective by more to be
            followed by another one.
        report: called after each iteration over all points with its number, from 1 in each restart, and the
            objective.

    Raises:
        DataError: there are fewer training points than clusters.
        ArtifactError: x is not a matrix of finite values.
        ConfigError: cuda was asked for, but faiss sees no GPU.
    """
    if sample is not None and sample < len(x):
        x = x[np.sort(draws.permutation(draws.key(seed, "kmeans", "sample"), len(x))[:sample])]
    x = check_points("features", x)
    if k > len(x):
        raise DataError(f"cluster.k is {k}, but there are only {len(x)} vectors to cluster: lower cluster.k")
    index = CentroidIndex(x.shape[1], device)
    best: KMeans | None = None
    with searchers(device) as threads:
        for restart in range(restarts):
            key = draws.key(seed, "kmeans", restart)
            centroids, grown = _grow(x, k, key, index, threads)
            found = _lloyd(
                _Selection(x), centroids, iterations, tolerance, key, index, threads, bool(grown), report
            )
            found = replace(found, grown=grown)
            if best is None or found.objective[-1] < best.objective[-1]:
                best = replace(found, restart=restart)
    assert best is not None
    cluster, distance, _ = nearest_two(x, best.centroids, device)
    sizes, value = np.bincount(cluster, minlength=k).astype(np.int64), float(distance.mean(dtype=np.float64))
    if value < (1 - _ROUNDING) * best.objective[-1]:  # the last iteration looked only among neighbours
        best = replace(best, objective=[*best.objective[:-1], value])
    return replace(best, sizes=sizes, empty=int((sizes == 0).sum()))


@dataclass(frozen=True)
class _Selection:
    """Rows of a matrix, read when needed. Samples have up to a quarter of all points, so they are not copied.

    Attributes:
        x: (N, d) float32.
        rows: (n,) int64, the selected rows, ascending; None: all rows.
    """

    x: NDArray[np.float32]
    rows: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.x if self.rows is None else self.rows)

    def __getitem__(self, which: slice | NDArray[np.int64]) -> NDArray[np.float32]:
        """Some of the selected rows."""
        return self.x[which if self.rows is None else self.rows[which]]


def _grow(
    x: NDArray[np.float32], k: int, key: int, index: CentroidIndex, threads: Executor
) -> tuple[NDArray[np.float32], list[Sample]]:
    """Make the start: k-means++ on a small sample, then Lloyd on growing ones. -> (k, d), and the samples."""
    grown: list[Sample] = []
    points = _START_POINTS * k
    if _LARGEST_SAMPLE * points > len(x):
        return _start(_Selection(x), k, key), grown
    order = draws.permutation(draws.key(key, "grow"), len(x))
    centroids: NDArray[np.float32] | None = None
    while _LARGEST_SAMPLE * points <= len(x):
        part = _Selection(x, np.sort(order[:points]))
        if centroids is None:
            centroids = _start(part, k, key)
        found = _lloyd(
            part,
            centroids,
            _SAMPLE_ITERATIONS,
            _SAMPLE_FALL,
            draws.key(key, points),
            index,
            threads,
            bool(grown),
        )
        centroids = found.centroids
        grown.append(Sample(points, len(found.objective), found.objective[-1]))
        points *= _GROWTH
    assert centroids is not None
    return centroids, grown


def _lloyd(
    x: _Selection,
    centroids: NDArray[np.float32],
    iterations: int,
    tolerance: float,
    key: int,
    index: CentroidIndex,
    threads: Executor,
    settled: bool,
    report: Callable[[int, float], None] = lambda iteration, objective: None,
) -> KMeans:
    """Iterate from given centroids. `settled` says whether these have already been moved on a sample."""
    k, m = len(centroids), 0 if index.on_gpu else _neighbours(len(centroids), len(x))
    squares = float(sum(np.square(x[s], dtype=np.float64).sum() for s in _blocks(0, len(x), k)))
    index.place(centroids)
    cluster, distance = index.nearest(x, threads)
    sums, sizes = _accumulate(x, cluster, k, threads)
    objective: list[float] = []
    near = 0  # iterations among neighbours since the last one among all centroids
    for iteration in range(1, iterations + 1):
        moved = (sums / np.maximum(sizes, 1)[:, None]).astype(np.float32)
        empty = np.flatnonzero(sizes == 0)
        moved[empty] = centroids[empty]
        chosen = _far_points(distance, len(empty), draws.key(key, "empty", iteration))
        moved[empty[: len(chosen)]] = x[chosen]

        # A centroid that was just moved elsewhere is not yet the neighbour of any other.
        among_all = m == 0 or not settled or near == _NEAR_ITERATIONS or len(chosen) > 0
        index.place(moved)
        if among_all:
            found, distance = index.nearest(x, threads)
        else:
            found, distance = index.nearest_of_neighbours(x, cluster, m, threads)
        settled = settled or int(np.count_nonzero(cluster != found)) <= _SETTLED * len(x)
        moved_sums, moved_sizes = _update(x, cluster, found, sums, sizes, threads)
        c = moved.astype(np.float64)
        total = squares - 2 * float((c * moved_sums).sum()) + float(moved_sizes @ np.square(c).sum(axis=1))
        value = max(0.0, total / len(x))
        last = objective[-1] if objective else np.inf
        ended = value >= (1 - tolerance) * last or np.array_equal(cluster, found)
        if value < last:  # otherwise nothing was left to gain but rounding
            centroids, cluster, sums, sizes = moved, found, moved_sums, moved_sizes
            objective.append(value)
            report(len(objective), value)
        if ended and among_all:
            break
        near = 0 if among_all else _NEAR_ITERATIONS if ended else near + 1
    return KMeans(centroids, sizes, objective, [], int((sizes == 0).sum()), len(x), restart=0)


def _neighbours(k: int, n: int) -> int:
    """Number of neighbours of its centroid that a point looks among. 0: all, because that is as fast."""
    m = min(max(k // _NEIGHBOURS_SHARE, _LEAST_NEIGHBOURS), _MOST_NEIGHBOURS)
    return m if k >= 8 * m and n >= _NEAR_POINTS * k else 0


def _start(selection: _Selection, k: int, key: int) -> NDArray[np.float32]:
    """Run k-means++ on a sample of the points. -> (k, d)."""
    points = min(max(_START_DISTANCES // k, _LEAST_START_POINTS * k), _START_POINTS * k)
    if len(selection) > points:
        x = selection[np.sort(draws.permutation(draws.key(key, "start"), len(selection))[:points])]
    else:
        x = selection[:]
    start = faiss.ClusteringInitialization(x.shape[1], k)  # type: ignore[attr-defined]  # not in faiss' stubs
    start.method = faiss.ClusteringInitMethod_KMEANS_PLUS_PLUS
    start.seed = key % 2**31
    centroids = np.empty((k, x.shape[1]), np.float32)
    start.init_centroids(len(x), faiss.swig_ptr(x), faiss.swig_ptr(centroids))
    return centroids


def _far_points(distance: NDArray[np.float32], n: int, key: int) -> NDArray[np.int64]:
    """Draw at most n different points with probability proportional to their squared distance.

    They have the n smallest of independent exponential variables with these rates (Efraimidis and Spirakis
    2006).
    """
    if n == 0:
        return np.empty(0, np.int64)
    u = draws.uniform(key, np.arange(len(distance), dtype=np.int64), 1)[:, 0]
    with np.errstate(divide="ignore"):
        waiting = np.where(distance > 0, -np.log1p(-u) / distance, np.inf)
    order = np.argsort(waiting, kind="stable")[:n]
    return order[np.isfinite(waiting[order])]


def _blocks(start: int, stop: int, k: int) -> list[slice]:
    """Blocks that are small enough for float64 copies, but have more rows than there are clusters."""
    rows = max(_ROWS, 2 * k)
    return [slice(s, min(s + rows, stop)) for s in range(start, stop, rows)]


def _accumulate(
    x: _Selection, cluster: NDArray[np.int64], k: int, threads: Executor
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Sum (k, d) and number (k,) of the points in each cluster."""

    def stripe(ends: tuple[int, int]) -> NDArray[np.float64]:
        sums = np.zeros((k, x.x.shape[1]))
        for rows in _blocks(*ends, k):
            members = sparse.csc_matrix(  # (k, rows), a single 1 in each column
                (np.ones(rows.stop - rows.start), cluster[rows], np.arange(rows.stop - rows.start + 1)),
                shape=(k, rows.stop - rows.start),
            ).tocsr()
            sums += members @ x[rows].astype(np.float64)
        return sums

    stripes = min(_STRIPES, -(-len(x) // _ROWS))
    ends = np.linspace(0, len(x), stripes + 1).astype(int).tolist()
    total = np.zeros((k, x.x.shape[1]))
    for sums in threads.map(stripe, pairwise(ends)):
        total += sums
    return total, np.bincount(cluster, minlength=k).astype(np.int64)


def _update(
    x: _Selection,
    before: NDArray[np.int64],
    cluster: NDArray[np.int64],
    sums: NDArray[np.float64],
    sizes: NDArray[np.int64],
    threads: Executor,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Update what `_accumulate` returned before. Only points that changed their cluster are read."""
    k, moved = len(sums), np.flatnonzero(before != cluster)
    if 2 * len(moved) > len(x):
        return _accumulate(x, cluster, k, threads)
    sums = sums.copy()
    for block in _blocks(0, len(moved), k):
        rows = moved[block]
        change = np.repeat([1.0, -1.0], len(rows))
        into, column = np.concatenate([cluster[rows], before[rows]]), np.tile(np.arange(len(rows)), 2)
        sums += sparse.csr_matrix((change, (into, column)), shape=(k, len(rows))) @ x[rows].astype(np.float64)
    return sums, np.bincount(cluster, minlength=k).astype(np.int64)
