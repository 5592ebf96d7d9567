"""Shared by the stages that work in clustering space: read clusters, and project features into the space."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from data.errors import DataError
from tasks.job import Job

if TYPE_CHECKING:
    from models.clustering.space import ClusterSpace


def clustering_points(job: Job, settings: dict[str, Any]) -> tuple[NDArray[np.float32], ClusterSpace]:
    """Fit the clustering space to the job's features and project the features into it.

    Args:
        job: a job with the input `features`.
        settings: has `k`, `pca`, `normalise` and `whitening`.

    Returns:
        The points (N, d) float32 in order of index, and the space.

    Raises:
        DataError: there are fewer images than clusters.
    """
    from data.tables import iterate_vectors
    from models.clustering.space import fit_space

    features = job.path("features")
    index = np.concatenate([block for block, _ in iterate_vectors(features)])
    if settings["k"] > len(index):
        raise DataError(
            f"cluster: cluster.k = {settings['k']} is more than the {len(index)} images; "
            f"choose at most {len(index)}"
        )
    space = fit_space(
        lambda: (x for _, x in iterate_vectors(features)),
        pca=settings["pca"],
        normalise=settings["normalise"],
        whitening=settings["whitening"],
    )
    row = np.empty_like(index)
    row[np.argsort(index)] = np.arange(len(index))
    y, at = None, 0
    for _, x in iterate_vectors(features):
        block = space.apply(x)
        if y is None:
            y = np.empty((len(index), block.shape[1]), np.float32)
        y[row[at : at + len(block)]] = block
        at += len(block)
    assert y is not None
    return y, space


def graph_points(job: Job) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
    """The points among which neighbours are searched: features in clustering space.

    For the input `features` it is the space of the input `clusters`, if there is one. Otherwise a space is
    fitted with `settings["space"]`. If the job has the input `second`, another network's features of the same
    images, the points of both spaces are concatenated.

    Returns:
        index (N,) int64 ascending, the points (N, d) float32, and the features (N, D) float32 themselves.
    """
    from data.tables import read_vectors

    index, x = read_vectors(job.path("features"))
    points = _space_of(job, "features").apply(x)
    if "second" in job.request.inputs:
        second_index, second = read_vectors(job.path("second"))
        assert np.array_equal(index, second_index), "the two networks' features are of different images"
        points = np.concatenate([points, _space_of(job, "second").apply(second)], axis=1)
    return index, points, x


def spread(
    graph: Any,
    position: NDArray[np.int64],
    label: NDArray[np.int64],
    *,
    classes: int,
    alpha: float,
    balanced: bool,
) -> NDArray[np.float32]:
    """Spread labels over a graph of neighbours (`models.clustering.propagation`).

    Args:
        graph: (N, N) sparse weights.
        position: (L,) rows of the labelled images.
        label: (L,) their classes.
        classes: C.
        alpha: how far labels spread.
        balanced: whether votes are divided by the number of the class's labels, so that every class counts
            the same.

    Returns:
        (N, C) float32, rows sum to 1.
    """
    from models.clustering.propagation import propagate

    found = propagate(graph, None, position, label, classes=classes, alpha=alpha)
    if not balanced:
        return found
    found /= np.maximum(np.bincount(label, minlength=classes), 1)
    balance: NDArray[np.float32] = found / found.sum(axis=1, keepdims=True)
    return balance


def spread_out_of_fold(
    graph: Any,
    position: NDArray[np.int64],
    label: NDArray[np.int64],
    kept: NDArray[np.bool_],
    *,
    classes: int,
    alpha: float,
    balanced: bool,
) -> NDArray[np.floating]:
    """Spread the labels that are kept, and say what this makes of the labelled images whose label is not.

    Args:
        graph: (N, N) sparse weights.
        position: (L,) rows of the labelled images.
        label: (L,) their classes.
        kept: (L,) whether a label is spread.
        classes: C.
        alpha: how far labels spread.
        balanced: as for `spread`.

    Returns:
        (l, C) logits of the l labelled images that are not kept, as if each class were as frequent among the
        kept labels as among all (`models.evaluation.contenders.like_all`).
    """
    from models.evaluation.contenders import like_all

    found = spread(graph, position[kept], label[kept], classes=classes, alpha=alpha, balanced=balanced)
    z: NDArray[np.floating] = np.log(found[position[~kept]] + 1e-6)
    return z if balanced else like_all(z, label[kept], label)


def _space_of(job: Job, name: str) -> ClusterSpace:
    from data.tables import iterate_vectors
    from models.clustering.space import fit_space

    if name == "features" and "clusters" in job.request.inputs:
        space: ClusterSpace = read_clusters(job.path("clusters"))[0]
        return space
    return fit_space(lambda: (x for _, x in iterate_vectors(job.path(name))), **job.settings["space"])


def read_clusters(folder: Path):  # type: ignore[no-untyped-def]  # ClusterSpace is imported in the plain process only
    """Read the clustering space and the centroids, (k, d) float32 in order of cluster id."""
    from data.checkpoints import read_arrays
    from data.tables import column, read_matrix, read_table
    from models.clustering.space import ClusterSpace

    table = read_table(folder / "centroids.parquet")
    centroids: NDArray[np.float32] = read_matrix(table, "vector")[np.argsort(column(table, "cluster"))]
    info = json.loads((folder / "clusters.json").read_text(encoding="utf-8"))
    arrays = read_arrays(folder / "transform.safetensors")
    space = ClusterSpace(mean=arrays.get("mean"), matrix=arrays.get("matrix"), normalise=info["normalise"])
    return space, centroids
