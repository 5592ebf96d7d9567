"""Cluster: runs K-means on the features, in clustering space."""

from __future__ import annotations

import numpy as np

from data.types import Artifact
from tasks.config import Config
from tasks.job import Job
from tasks.size import Context, Inputs, Size, chores, imports, products
from tasks.stage import Outcome, Request, Stage

STAGE = Stage(name="cluster", kind="clusters", version=4, process="plain")


def plan(config: Config, features: Artifact) -> Request:
    """Request the clusters of the features."""
    settings = config.cluster.model_dump(exclude={"seed", "data"})
    seed = config.seed if config.cluster.seed is None else config.cluster.seed
    return STAGE.request(settings=settings, inputs={"features": features}, seed=seed)


def size(run: Context, request: Request, inputs: Inputs) -> Size:
    """Estimate the artifact and its cost for a dry run."""
    asked, features = request.settings, inputs["features"]
    n, d = min(asked["sample"] or features.rows, features.rows), asked["pca"] or features.width
    rounds = asked["iterations"] * asked["restarts"]
    operations = 2.0 * n * d * asked["k"] * rounds
    return Size(
        asked["k"],
        asked["k"] * (4 * d + 12),
        operations,
        width=d,
        work=(products(operations), imports(0.5), chores(0.3)),
    )


def build(job: Job) -> Outcome:
    """Fit the clustering space on all features, then K-means in it."""
    from dataclasses import asdict

    from data import schemas
    from data.checkpoints import write_arrays
    from data.store import write_json
    from data.tables import write_table
    from models.clustering.kmeans import kmeans
    from tasks.clustering import clustering_points

    settings = job.settings
    y, space = clustering_points(job, settings)
    found = kmeans(
        y,
        settings["k"],
        iterations=settings["iterations"],
        restarts=settings["restarts"],
        seed=job.seed,
        device=job.compute.device,
        sample=settings["sample"],
        tolerance=settings["tolerance"],
        report=lambda i, objective: job.report(done=i, total=settings["iterations"], loss=objective),
    )
    k, d = found.centroids.shape
    rows = {"cluster": np.arange(k), "size": found.sizes, "vector": list(found.centroids)}
    write_table(job.out / "centroids.parquet", rows, schemas.centroids(d))
    write_arrays(job.out / "transform.safetensors", space.arrays())
    info = {
        "k": k,
        "normalise": settings["normalise"],
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
        job.log(
            f"k-means: initialised on a sample of {sample.points} images, {sample.iterations} iterations, "
            f"objective on the sample {sample.objective:.5g}"
        )
    job.log(
        f"k-means: k = {k}, trained on {found.trained_on} of {len(y)} images, "
        f"{len(found.objective)} iterations, objective {found.objective[-1]:.5g}, "
        f"{found.empty} empty clusters"
    )
    return Outcome(rows=k, meta={"trained_on": found.trained_on, "empty": found.empty})
