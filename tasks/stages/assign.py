"""Assign: finds the nearest centroid of every image. The images may differ from those that were clustered."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.store import Meta
from data.types import Artifact
from tasks.earlier import Candidate, Rows, most_rows, others
from tasks.job import Job
from tasks.size import Context, Inputs, Size
from tasks.sources import SPLITS_OF
from tasks.stage import Outcome, Request, Stage

STAGE = Stage(name="assign", kind="assignments", version=1, process="plain")


def plan(clusters: Artifact, features: Artifact) -> Request:
    """Request pseudo-labels for the images of the features."""
    return STAGE.request(settings={}, inputs={"clusters": clusters, "features": features})


def size(run: Context, request: Request, inputs: Inputs) -> Size:
    """Estimate the artifact and its cost for a dry run."""
    n, clusters = inputs["features"].rows, inputs["clusters"]
    return Size(n, 20 * n, 2.0 * n * clusters.width * clusters.rows, width=clusters.rows)


def build(job: Job) -> Outcome:
    """Reuse the rows of an earlier artifact, then assign the other images block by block.

    Each core searches one block at a time.
    """
    from contextlib import closing

    from data.schemas import ASSIGNMENTS
    from data.tables import AssignmentWriter, column, iterate_vectors, read_table
    from models.clustering.nearest import BLOCK, nearest_in_blocks
    from tasks.clustering import read_clusters

    space, centroids = read_clusters(job.path("clusters"))
    total, earlier, taken = job.meta("features")["rows"], _earlier(job), np.zeros(0, np.int64)

    def unknown() -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        for index, x in iterate_vectors(job.path("features"), rows=BLOCK):
            new = ~np.isin(index, taken)
            if new.all():
                yield index, x
            elif new.any():
                yield index[new], x[new]

    with AssignmentWriter(job.out, ASSIGNMENTS) as out:
        if earlier is not None:
            taken, table = earlier.taken, read_table(earlier.folder, ASSIGNMENTS)
            columns = {name: column(table, name) for name in ASSIGNMENTS.names}
            kept = np.isin(columns["index"], np.fromiter(earlier.index_of, np.int64, len(earlier.index_of)))
            index = np.array([earlier.index_of[i] for i in columns.pop("index")[kept].tolist()], np.int64)
            out.write(index=index, **{name: values[kept] for name, values in columns.items()})
        with closing(nearest_in_blocks(unknown(), space.apply, centroids)) as found:
            for index, cluster, distance, runner_up in found:
                out.write(index=index, cluster=cluster, distance=distance, runner_up=runner_up)
                job.report(done=out.rows, total=total)
    return Outcome(rows=total, meta={"rows_computed": out.rows - len(taken)})


def _earlier(job: Job) -> Rows | None:
    """Find reusable rows: an artifact with the same centroids, whose features were made in the same way."""

    def way(features: Meta) -> tuple[str, int, dict[str, Any], dict[str, Any]]:
        others = {name: value for name, value in features["config"].items() if name not in ("part", "seed")}
        inputs = {name: given for name, given in features["inputs"].items() if name != "manifest"}
        return features["stage"], features["version"], others, inputs

    features = job.meta("features")
    if (
        features["stage"] != "embed"
    ):  # vectors from files: another file may hold another vector for the same image
        return None
    same, clusters = way(features), job.request.inputs["clusters"].model_dump()
    candidates = []
    for artifact, meta in others(job, STAGE.kind):
        read = Artifact.model_validate(meta["inputs"]["features"])
        if (
            meta["version"] != job.request.version
            or meta["inputs"]["clusters"] != clusters
            or not job.store.has(read)
        ):
            continue
        theirs = job.store.meta(read)
        if way(theirs) == same:
            manifest = Artifact.model_validate(theirs["inputs"]["manifest"])
            candidates.append(Candidate(artifact, manifest, SPLITS_OF[theirs["config"]["part"]]))
    manifest = Artifact.model_validate(features["inputs"]["manifest"])
    return most_rows(job, manifest, SPLITS_OF[features["config"]["part"]], candidates)
