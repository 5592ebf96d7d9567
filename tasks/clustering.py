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
