"""Outliers: lists the images that are far from their cluster's centroid, for a person to look at."""

from __future__ import annotations

from data.types import Artifact
from tasks.config import Config
from tasks.job import Job
from tasks.size import Context, Inputs, Size, scored
from tasks.stage import Leaf, Outcome, Request

COLUMNS = {"index": "int64", "times": "float32"}
STAGE = Leaf("outliers", "scores", version=1, process="plain", columns=COLUMNS, reads=("assignments",))
FAR = 4.0
"""An image is an outlier if its squared distance to the centroid is more than this many times the median."""


def plan(config: Config, assignments: Artifact) -> Request:
    """Request the outliers among the images that have a cluster."""
    return STAGE.request(settings={"far": FAR}, inputs={"assignments": assignments}, seed=config.seed)


def size(run: Context, request: Request, inputs: Inputs) -> Size:
    """Estimate the artifact and its cost for a dry run: one row of scores."""
    return scored(1)


def build(job: Job) -> Outcome:
    """Write the outliers, farthest first, and their share of all images."""
    import numpy as np

    from data.tables import column, read_table
    from tasks.scoring import write_scores

    table = read_table(job.path("assignments"))
    index, distance = column(table, "index"), column(table, "distance")
    times, far = distance / max(np.median(distance), 1e-12), job.settings["far"]
    first = np.argsort(-times)[: np.count_nonzero(times > far)]
    job.write("outliers.parquet", {"index": index[first], "times": times[first]})
    row = ("outliers", "teacher", "share", "train", f"far={far:g}", len(first) / len(index))
    return Outcome(rows=write_scores(job, [(*row, job.seed, len(index))]))
