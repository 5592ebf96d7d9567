"""Drift: how far images now lie from the centroids of an earlier run, against those that were clustered then."""

from __future__ import annotations

from data.types import Artifact
from tasks.stage import Job, Outcome, Request, Stage

STAGE = Stage(name="drift", kind="drift", version=1, process="plain")

FAR = 0.99
"""Images beyond this quantile of the distances then are far away."""


def plan(assignments: Artifact, *, before: Artifact) -> Request:
    """Ask for the figures.

    Args:
        assignments: of the images now, to the earlier centroids.
        before: of the images then.
    """
    return STAGE.request(settings={"far": FAR}, inputs={"assignments": assignments, "before": before})


def build(job: Job) -> Outcome:
    """Compare squared distances in clustering space: their mean, and the share beyond nearly all of those then."""
    import numpy as np

    from data.schemas import ASSIGNMENTS
    from data.store import write_json
    from data.tables import column, read_table

    now, then = (
        column(read_table(job.path(name), ASSIGNMENTS), "distance").astype(np.float64)
        for name in ("assignments", "before")
    )
    limit = float(np.quantile(then, job.settings["far"]))
    figures = {
        "mean": float(now.mean()),
        "mean_before": float(then.mean()),
        "shift": float(abs(now.mean() - then.mean()) / max(then.mean(), np.finfo(np.float32).tiny)),
        "far": float((now > limit).mean()),
        "far_before": float((then > limit).mean()),
    }
    write_json(job.out / "drift.json", figures)
    job.log(f"distance to the centroids: mean {figures['mean']:.4g}, then {figures['mean_before']:.4g}; {100 * figures['far']:.1f} % lie farther than {100 * job.settings['far']:g} % did")  # fmt: skip
    return Outcome(rows=len(now), meta=figures)
