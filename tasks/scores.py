"""Scores: all evaluations of the run in one table, with how well the clusters match the true labels."""

from __future__ import annotations

from typing import Any

from data.types import Artifact
from tasks.config import Config
from tasks.stage import Job, Outcome, Request, Stage

STAGE = Stage(name="scores", kind="scores", version=1, process="plain")


def plan(
    config: Config,
    manifest: Artifact,
    clusters: Artifact,
    assignments: Artifact,
    **evaluations: Artifact,
) -> Request:
    """Ask for the table.

    Args:
        config: of the run.
        manifest: of the images that the assignments are of.
        clusters: their clusters.
        assignments: pseudo-labels.
        **evaluations: kind scores, one a model, by stage label.
    """
    settings = {"clusters": "clusters" in config.evaluate.protocols}
    return STAGE.request(
        settings=settings,
        inputs={"manifest": manifest, "clusters": clusters, "assignments": assignments, **evaluations},
        parts=("train", "train_labels"),
        seed=config.seed,
    )


def build(job: Job) -> Outcome:
    """Concatenate, and add agreement of clusters and labels over the training images that have one."""
    import numpy as np

    from data.schemas import ASSIGNMENTS, MANIFEST, SCORES
    from data.tables import column, read_table, write_table
    from models.evaluation.clusters import cluster_scores

    rows: dict[str, list[Any]] = {name: [] for name in SCORES.names}
    for name, given in job.request.inputs.items():
        if given.kind == "scores":
            table = read_table(job.path(name) / "scores.parquet", SCORES)
            for field in SCORES.names:
                rows[field] += table[field].to_pylist()
    if job.settings["clusters"]:
        manifest = read_table(job.path("manifest") / "images.parquet", MANIFEST)
        label_of = np.full(manifest.num_rows, -1, np.int64)
        label_of[column(manifest, "index")] = column(manifest, "label")
        assigned = read_table(job.path("assignments"), ASSIGNMENTS)
        cluster, label = column(assigned, "cluster"), label_of[column(assigned, "index")]
        k = int(job.meta("clusters")["rows"])
        for metric, value, n in cluster_scores(cluster, label, k):
            row = ("clusters", "teacher", metric, "train", f"k={k}", float(value), job.seed, int(n))
            for field, cell in zip(SCORES.names, row, strict=True):
                rows[field].append(cell)
    return Outcome(rows=write_table(job.out / "scores.parquet", rows, SCORES))
