"""Drift: compares how far today's images and an earlier run's images are from that run's centroids."""

from __future__ import annotations

from data.types import Artifact
from tasks.job import Job
from tasks.stage import Outcome, Request, Stage

STAGE = Stage(name="drift", kind="drift", version=1, process="plain")

FAR = 0.99
"""An image is far away if its distance is beyond this quantile of the earlier distances."""


def plan(assignments: Artifact, *, before: Artifact) -> Request:
    """Request the comparison.

    Args:
        assignments: today's images, assigned to the earlier centroids.
        before: the earlier run's images, assigned to the same centroids.
    """
    return STAGE.request(settings={"far": FAR}, inputs={"assignments": assignments, "before": before})


def build(job: Job) -> Outcome:
    """Compare squared distances in clustering space: their mean, and the share of far-away images."""
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
    job.log(
        f"squared distance to the centroids: mean {figures['mean']:.4g}, in the earlier run "
        f"{figures['mean_before']:.4g}; {100 * figures['far']:.1f} % of the images are farther away than "
        f"{100 * job.settings['far']:g} % were in the earlier run"
    )
    return Outcome(rows=len(now), meta=figures)
