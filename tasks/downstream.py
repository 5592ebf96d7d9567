"""What the evaluations have in common that train a network further on photographs with annotations: how they are asked for."""

from __future__ import annotations

from data.types import Artifact, Frozen
from tasks.config import Config
from tasks.stage import Request, Stage
from tasks.stages.manifest import voc_sources


def ask(
    stage: Stage, training: Frozen, config: Config, manifest: Artifact, checkpoint: Artifact | None, model: str
) -> Request:
    """Ask for the scores of a network after further training.

    Args:
        stage: which.
        training: its parameters.
        config: of the run.
        manifest: of `evaluate.voc`.
        checkpoint: whose layers start; None: those of an untrained student.
        model: its name in the scores.
    """
    assert config.evaluate.voc is not None
    settings = {
        "training": training.model_dump(),
        "model": model,
        "image_size": config.data.image_size,
        "precision": config.compute.precision,
    }
    if checkpoint is None:
        settings["student"] = config.student.model_dump()
    return stage.request(
        settings=settings,
        inputs={"manifest": manifest} | ({"checkpoint": checkpoint} if checkpoint else {}),
        parts=("train", "test", "labels"),
        seed=config.seed,
        outside={"sources": voc_sources(config.evaluate.voc)},
    )
