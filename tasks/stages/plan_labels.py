"""Plan the rest: divides the remaining minutes among fine-tuning, training from scratch and distillation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data.types import Artifact
from tasks.config import Config
from tasks.job import Job
from tasks.planning import PASSES, Speed, by_hand, comparing, from_labels
from tasks.size import Context, Inputs, Size, chores, images_of
from tasks.stage import Outcome, Request, Stage

STAGE = Stage(name="plan_labels", kind="plan", version=7, process="plain")


def plan(
    config: Config, manifest: Artifact, first: Artifact, *, labels: list[int], **trained: Artifact
) -> Request:
    """Request the rest of a plan.

    Args:
        config: the run's configuration.
        manifest: the manifest of the run's images.
        first: the first part of the plan.
        labels: number of labels that will be drawn from each class.
        **trained: the artifacts made so far. The seconds that they took are subtracted from the minutes.
    """
    settings: dict[str, Any] = {
        "minutes": config.plan.minutes,
        "keep": by_hand(config),
        "labels": sum(labels),
        "classes": len(labels),
        "folds": config.ship.folds if max(labels) > 1 else 0,
        "rounds": config.distill.rounds,
    }
    if "finetune.batch_size" in config.plan.keep:
        settings["batch_size"] = config.finetune.batch_size
    return STAGE.request(
        settings=settings,
        inputs={"manifest": manifest, "first": first, **trained},
        parts=("train", "unlabelled"),
    )


def size(run: Context, request: Request, inputs: Inputs) -> Size:
    """Estimate the artifact and its cost for a dry run. The first stages are assumed to last as planned."""
    first, n = inputs["first"].meta, images_of(inputs).all
    assert first is not None
    steps, speed = first["settings"], Speed(**first["speed"])
    taken = run.decoding * n * (2 if speed.foreign else 1) + n * speed.look
    for section, step in (("pretext", speed.teacher), ("transfer", speed.transfer)):
        taken += steps.get(f"{section}.steps", 0) * step
    return Size(1, 3e3, work=(chores(0.1),), meta=_plan(request.settings, first, n, taken))


def build(job: Job) -> Outcome:
    """Subtract what the first stages took from the minutes, and plan the rest."""
    from data.store import write_json

    counts = job.meta("manifest")["counts"]
    n = counts["train"] + counts["unlabelled"]
    taken = sum(job.meta(name)["seconds"] for name in job.request.inputs)
    meta = _plan(job.settings, job.meta("first"), n, taken)
    write_json(job.out / "plan.json", meta)
    return Outcome(rows=len(meta["settings"]), meta=meta)


def _plan(settings: dict[str, Any], first: Mapping[str, Any], images: int, taken: float) -> dict[str, Any]:
    """Plan the rest, and return meta.json: settings by dotted key, and reasons.

    Args:
        settings: the stage's settings.
        first: the first part of the plan.
        images: number of train + unlabelled images.
        taken: seconds that the stages so far took.
    """
    speed, labels = Speed(**first["speed"]), settings["labels"]
    looks = first.get("looks", 0) * speed.look
    whole = 60 * settings["minutes"] - speed.fixed - PASSES * images * speed.forward - looks
    whole -= comparing(images, settings["folds"], speed)
    # The teacher's features of all images are among what was taken, and so are no longer to come.
    left = whole + images * speed.look - taken - labels * speed.foreign
    found = from_labels(
        left,
        labels,
        images,
        speed,
        settings["folds"],
        whole,
        settings.get("batch_size"),
        settings["classes"],
        images + first.get("tested", 0),
        settings["rounds"],
    )
    chosen = found.without(settings["keep"])
    return {"settings": chosen.settings, "because": chosen.lines}
