"""Distill: the student learns the teacher's probabilities on all images."""

from __future__ import annotations

from typing import Any

from data.types import Artifact
from models.methods.configs import Distill
from tasks.config import Config
from tasks.manifest import sources
from tasks.stage import Job, Outcome, Request, Stage

STAGE = Stage(name="distill", kind="checkpoint", version=1, process="train")


def plan(
    config: Config, manifest: Artifact, labels: Artifact, probabilities: Artifact, checkpoint: Artifact | None = None
) -> Request:
    """Ask for the final student.

    Args:
        config: of the run.
        manifest: of the run's images.
        labels: the draw; read for the labelled loss only (alpha below 1).
        probabilities: of train + unlabelled images.
        checkpoint: the student to start from; None: from scratch.
    """
    settings: dict[str, Any] = {
        "distill": config.distill.model_dump(exclude={"seed", "init"}),
        "student": config.student.model_dump(),
        "keep_fc": config.finetune.keep_fc,
        "image_size": config.data.image_size,
        "precision": config.compute.precision,
    }
    inputs = {"manifest": manifest, "probabilities": probabilities}
    if config.distill.alpha < 1:
        inputs["labels"] = labels
    if checkpoint is not None:
        inputs["checkpoint"] = checkpoint
    return STAGE.request(
        settings=settings,
        inputs=inputs,
        parts=("train", "unlabelled"),
        seed=config.seed if config.distill.seed is None else config.distill.seed,
        outside={"sources": sources(config)},
    )
