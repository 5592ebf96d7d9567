"""Scores: collects the run's scores in one table, and compares pseudo-labels with true labels."""

from __future__ import annotations

from typing import Any

from data.types import Artifact
from tasks.config import Config
from tasks.job import Job
from tasks.size import Context, Inputs, Size, chores
from tasks.stage import Outcome, Request, Stage

STAGE = Stage(name="scores", kind="scores", version=1, process="plain")

SCORED = frozenset({"scores", "answers"})
"""Kinds of artifacts that have a `scores.parquet`."""


def plan(
    config: Config,
    manifest: Artifact,
    clusters: Artifact | None = None,
    assignments: Artifact | None = None,
    codes: Artifact | None = None,
    **evaluations: Artifact,
) -> Request:
    """Request the table.

    Args:
        config: the run's configuration.
        manifest: the manifest of the images with pseudo-labels.
        clusters: the clusters, if images were clustered.
        assignments: the pseudo-labels from these clusters.
        codes: the pseudo-labels from the pretext method, if it gave any.
        **evaluations: artifacts of the evaluations, by stage label. Only those that hold scores are read.
    """
    settings = {"clusters": "clusters" in config.evaluate.protocols}
    labels = {"clusters": clusters, "assignments": assignments, "codes": codes}
    tables = {label: given for label, given in evaluations.items() if given.kind in SCORED}
    return STAGE.request(
        settings=settings,
        inputs={"manifest": manifest} | {name: given for name, given in labels.items() if given} | tables,
        parts=("train", "train_labels"),
        seed=config.seed,
    )


def size(run: Context, request: Request, inputs: Inputs) -> Size:
    """Estimate the artifact and its cost for a dry run."""
    rows = sum(given.rows for given in inputs.values() if given.artifact.kind == "scores")
    return Size(rows, 5e3, work=(chores(0.1),))


def build(job: Job) -> Outcome:
    """Concatenate the scores, and add how well pseudo-labels agree with the training images' labels."""
    import numpy as np

    from data.schemas import ASSIGNMENTS, CODES, MANIFEST, SCORES
    from data.tables import column, read_table, write_table
    from models.evaluation.clusters import cluster_scores

    rows: dict[str, list[Any]] = {name: [] for name in SCORES.names}
    for name, given in job.request.inputs.items():
        if given.kind in SCORED:
            table = read_table(job.path(name) / "scores.parquet", SCORES)
            for field in SCORES.names:
                rows[field] += table[field].to_pylist()
    if job.settings["clusters"]:
        manifest = read_table(job.path("manifest") / "images.parquet", MANIFEST)
        label_of = np.full(manifest.num_rows, -1, np.int64)
        label_of[column(manifest, "index")] = column(manifest, "label")

        def agreement(evaluation: str, index: Any, cluster: Any, k: int, setting: str) -> None:
            for metric, value, n in cluster_scores(cluster, label_of[index], k):
                row = (evaluation, "teacher", metric, "train", setting, float(value), job.seed, int(n))
                for field, cell in zip(SCORES.names, row, strict=True):
                    rows[field].append(cell)

        if "assignments" in job.request.inputs:
            assigned = read_table(job.path("assignments"), ASSIGNMENTS)
            k = int(job.meta("clusters")["rows"])
            agreement("clusters", column(assigned, "index"), column(assigned, "cluster"), k, f"k={k}")
        if "codes" in job.request.inputs:
            given = read_table(job.path("codes"), CODES)
            head, cluster = column(given, "head"), column(given, "cluster")
            for h in np.unique(head).tolist():
                of_head = head == h
                k = int(cluster[of_head].max()) + 1
                agreement("codes", column(given, "index")[of_head], cluster[of_head], k, f"k={k} head={h}")
    return Outcome(rows=write_table(job.out / "scores.parquet", rows, SCORES))
