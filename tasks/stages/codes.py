"""Codes: copies the labels that the pretext method gave to all images into a table."""

from __future__ import annotations

import numpy as np

from data.types import Artifact
from tasks.job import Job
from tasks.size import Context, Inputs, Size, images_of
from tasks.stage import Outcome, Request, Stage

STAGE = Stage(name="codes", kind="codes", version=1, process="plain")


def plan(checkpoint: Artifact) -> Request:
    """Request the labels that the training wrote next to the teacher's weights."""
    return STAGE.request(settings={}, inputs={"checkpoint": checkpoint})


def size(run: Context, request: Request, inputs: Inputs) -> Size:
    """Estimate the artifact and its cost for a dry run."""
    images, k = images_of(inputs, "checkpoint"), run.config.cluster.k
    run.assume(f"codes: one head with cluster.k = {k:,} different codes")
    return Size(images.all, 8 * images.all, width=k)


def build(job: Job) -> Outcome:
    """Copy the labels, and log how many there are and how evenly they are used."""
    from data.schemas import CODES
    from data.tables import column, read_table, write_table

    table = read_table(job.path("checkpoint") / "codes.parquet", CODES)
    head, cluster = column(table, "head"), column(table, "cluster")
    sizes = [np.bincount(cluster[head == h]) for h in np.unique(head)]
    used, largest = [int((n > 0).sum()) for n in sizes], max(float(n.max() / n.sum()) for n in sizes)
    job.log(
        f"codes of {len(sizes)} heads: {', '.join(map(str, used))} labels in use; "
        f"the largest has {largest:.1%} of the images"
    )
    columns = {name: column(table, name) for name in CODES.names}
    return Outcome(rows=write_table(job.out / "part-00000.parquet", columns, CODES), meta={"used": used})
