"""Assign: the nearest centroid of every image, streamed; the images may be others than those clustered."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.types import Artifact
from tasks.stage import Job, Outcome, Request, Stage

STAGE = Stage(name="assign", kind="assignments", version=1, process="plain")


def plan(clusters: Artifact, features: Artifact) -> Request:
    """Ask for pseudo-labels of the images that the features are of."""
    return STAGE.request(settings={}, inputs={"clusters": clusters, "features": features})


def build(job: Job) -> Outcome:
    """Read features block by block, write assignments block by block; as many are searched at once as there are cores."""
    from contextlib import closing

    from data.schemas import ASSIGNMENTS
    from data.tables import AssignmentWriter, iterate_vectors
    from models.clustering.nearest import BLOCK, nearest_in_blocks

    space, centroids = read_clusters(job.path("clusters"))
    total = job.meta("features")["rows"]
    found = nearest_in_blocks(iterate_vectors(job.path("features"), rows=BLOCK), space.apply, centroids)
    with AssignmentWriter(job.out, ASSIGNMENTS) as out, closing(found):
        for index, cluster, distance, runner_up in found:
            out.write(index=index, cluster=cluster, distance=distance, runner_up=runner_up)
            job.report(done=out.rows, total=total)
    return Outcome(rows=out.rows)


def read_clusters(folder: Path):  # type: ignore[no-untyped-def]  # ClusterSpace is imported in the plain process only
    """The clustering space and the centroids (k, d) float32 in order of cluster id."""
    from data.checkpoints import read_arrays
    from data.tables import column, read_matrix, read_table
    from models.clustering.space import ClusterSpace

    table = read_table(folder / "centroids.parquet")
    centroids: NDArray[np.float32] = read_matrix(table, "vector")[np.argsort(column(table, "cluster"))]
    info = json.loads((folder / "clusters.json").read_text())
    arrays = read_arrays(folder / "transform.safetensors")
    space = ClusterSpace(mean=arrays.get("mean"), matrix=arrays.get("matrix"), normalise=info["normalise"])
    return space, centroids
