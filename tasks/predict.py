"""Predict: the fine-tuned teacher's probabilities for train and unlabelled images."""

from __future__ import annotations

from data.types import Artifact
from tasks.config import Config
from tasks.manifest import sources
from tasks.stage import Job, Outcome, Request, Stage

STAGE = Stage(name="predict", kind="probabilities", version=1, process="train")


def plan(config: Config, manifest: Artifact, checkpoint: Artifact) -> Request:
    """Ask for probabilities of train + unlabelled images; views are drawn as in fine-tuning."""
    views = config.predict.views
    settings = {
        "views": views,
        "view": config.finetune.model_dump(include={"crop_min", "flip", "rotate", "jitter", "jitter_probability", "grey", "blur"}) if views > 1 else None,  # fmt: skip
        "image_size": config.data.image_size,
        "precision": config.compute.precision,
    }
    return STAGE.request(
        settings=settings,
        inputs={"manifest": manifest, "checkpoint": checkpoint},
        parts=("train", "unlabelled"),
        seed=config.seed if views > 1 else None,
        outside={"sources": sources(config), "batch_size": config.embed.batch_size},
    )
