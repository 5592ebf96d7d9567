"""Plan the rest: divides the remaining minutes among the trainings that learn labels and targets."""

from __future__ import annotations

from typing import Any

from data.types import Artifact
from tasks.config import Config
from tasks.job import Job
from tasks.size import Context, Inputs, Size
from tasks.stage import Outcome, Request, Stage

STAGE = Stage(name="plan_labels", kind="plan", version=1, process="plain")


def plan(config: Config, manifest: Artifact, plan: Artifact, *, labels: int, **trained: Artifact) -> Request:
    """Request the rest of a plan.

    Args:
        config: the run's configuration.
        manifest: the manifest of the run's images.
        plan: the first part.
        labels: number of labels that will be drawn.
        **trained: the artifacts so far. What they took is not left any more.
    """
    settings: dict[str, Any] = {
        "minutes": config.plan.minutes,
        "keep": sorted(config.plan.keep),
        "labels": labels,
        "folds": config.ship.folds,
    }
    return STAGE.request(
        settings=settings,
        inputs={"manifest": manifest, "plan": plan, **trained},
        parts=("train", "unlabelled"),
    )


def size(run: Context, request: Request, inputs: Inputs) -> Size:
    """Estimate the artifact and its cost for a dry run."""
    return Size(1, 3e3)


def build(job: Job) -> Outcome:
    """Subtract what the first stages took from the minutes, and plan the rest."""
    from data.store import write_json
    from tasks.planning import FIXED, Speed, from_labels

    settings, speed = job.settings, Speed(**job.meta("plan")["speed"])
    counts = job.meta("manifest")["counts"]
    n = counts["train"] + counts["unlabelled"]
    taken = sum(job.meta(name)["seconds"] for name in job.request.inputs)
    left = 60 * settings["minutes"] - FIXED - taken - 2 * n * speed.forward
    found = from_labels(left, settings["labels"], n, speed, settings["folds"])
    chosen = {key: value for key, value in found.settings.items() if key not in settings["keep"]}
    meta = {"settings": chosen, "because": found.because}
    write_json(job.out / "plan.json", meta)
    return Outcome(rows=len(chosen), meta=meta)
