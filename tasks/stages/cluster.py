"""Cluster: K-means on the features, in the space they are compared in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from data.errors import DataError
from data.types import Artifact
from tasks.config import Config
from tasks.stage import Job, Outcome, Request, Stage

if TYPE_CHECKING:
    from models.clustering.space import ClusterSpace

STAGE = Stage(name="cluster", kind="clusters", version=4, process="plain")


def plan(config: Config, features: Artifact) -> Request:
    """Ask for the clusters of the features."""
    settings = config.cluster.model_dump(exclude={"seed", "data"})
    seed = config.seed if config.cluster.seed is None else config.cluster.seed
    return STAGE.request(settings=settings, inputs={"features": features}, seed=seed)


def clustering_points(job: Job, wish: dict[str, Any]) -> tuple[NDArray[np.float32], ClusterSpace]:
    """The job's features in clustering space, (N, d) in order of index, and that space, fitted to them.

    Args:
        job: has the input `features`.
        wish: `k`, `pca`, `normalise` and `whitening`.

    Raises:
        DataError: fewer images than clusters.
    """
    from data.tables import iterate_vectors
    from models.clustering.space import fit_space

    features = job.path("features")
    index = np.concatenate([block for block, _ in iterate_vectors(features)])
    if wish["k"] > len(index):
        raise DataError(
            f"cluster: cluster.k = {wish['k']} is more than the {len(index)} images; choose at most {len(index)}"
        )
    space = fit_space(
        lambda: (x for _, x in iterate_vectors(features)),
        pca=wish["pca"],
        normalise=wish["normalise"],
        whitening=wish["whitening"],
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


def build(job: Job) -> Outcome:
    """Fit the clustering space on all features, then K-means in it."""
    from dataclasses import asdict

    from data import schemas
    from data.checkpoints import write_arrays
    from data.store import write_json
    from data.tables import write_table
    from models.clustering.kmeans import kmeans

    wish = job.settings
    y, space = clustering_points(job, wish)
    found = kmeans(
        y,
        wish["k"],
        iterations=wish["iterations"],
        restarts=wish["restarts"],
        seed=job.seed,
        device=job.compute.device,
        sample=wish["sample"],
        tolerance=wish["tolerance"],
        report=lambda i, objective: job.report(done=i, total=wish["iterations"], loss=objective),
    )
    k, d = found.centroids.shape
    rows = {"cluster": np.arange(k), "size": found.sizes, "vector": list(found.centroids)}
    write_table(job.out / "centroids.parquet", rows, schemas.centroids(d))
    write_arrays(job.out / "transform.safetensors", space.arrays())
    info = {
        "k": k,
        "normalise": wish["normalise"],
        "iterations": len(found.objective),
        "objective": found.objective,
        "grown": [asdict(sample) for sample in found.grown],
        "trained_on": found.trained_on,
        "of": len(y),
        "empty": found.empty,
        "seed": job.seed,
    }
    write_json(job.out / "clusters.json", info)
    for sample in found.grown:
        job.log(f"k-means: outset from {sample.points} images, {sample.iterations} iterations, objective there {sample.objective:.5g}")  # fmt: skip
    job.log(f"k-means: k = {k}, trained on {found.trained_on} of {len(y)} images, {len(found.objective)} iterations, objective {found.objective[-1]:.5g}, {found.empty} empty")  # fmt: skip
    return Outcome(rows=k, meta={"trained_on": found.trained_on, "empty": found.empty})
