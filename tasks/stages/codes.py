"""Codes: the labels that a pretext method has given all images itself, as a table of their own."""

from __future__ import annotations

import numpy as np

from data.types import Artifact
from tasks.stage import Job, Outcome, Request, Stage

STAGE = Stage(name="codes", kind="codes", version=1, process="plain")


def plan(checkpoint: Artifact) -> Request:
    """Ask for the labels that training has left beside the teacher's weights."""
    return STAGE.request(settings={}, inputs={"checkpoint": checkpoint})


def build(job: Job) -> Outcome:
    """Copy them; say how many labels there are and how evenly they are used."""
    from data.schemas import CODES
    from data.tables import column, read_table, write_table

    table = read_table(job.path("checkpoint") / "codes.parquet", CODES)
    head, cluster = column(table, "head"), column(table, "cluster")
    sizes = [np.bincount(cluster[head == h]) for h in np.unique(head)]
    used, largest = [int((n > 0).sum()) for n in sizes], max(float(n.max() / n.sum()) for n in sizes)
    job.log(f"codes of {len(sizes)} heads: {', '.join(map(str, used))} labels in use; the largest holds {largest:.1%}")
    columns = {name: column(table, name) for name in CODES.names}
    return Outcome(rows=write_table(job.out / "part-00000.parquet", columns, CODES), meta={"used": used})
