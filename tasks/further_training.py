"""Shared by the evaluations that train a network further on annotated photographs: request and size."""

from __future__ import annotations

from typing import Any

from data.types import Artifact
from models.configs.shared import Sized
from tasks.config import Config
from tasks.size import Context, Inputs, Size, classifier, cost_of, images_of, passes, scored, steps
from tasks.sources import voc_sources
from tasks.stage import Request, Stage


def ask_further(
    stage: Stage,
    training: Sized,
    config: Config,
    photographs: Artifact,
    checkpoint: Artifact | None,
    model: str,
) -> Request:
    """Request the scores of a network after further training.

    Args:
        stage: the evaluation.
        training: the settings of its training.
        config: the run's configuration.
        photographs: the manifest of `evaluate.voc`.
        checkpoint: the network to start from; None: an untrained student.
        model: the model's name in the scores.
    """
    assert config.evaluate.voc is not None
    settings = {
        "training": training.settings(config.data.image_size),
        "model": model,
        "image_size": config.data.image_size,
        "precision": config.compute.precision,
    }
    if checkpoint is None:
        settings["student"] = config.student.settings()
    return stage.request(
        settings=settings,
        inputs={"manifest": photographs} | ({"checkpoint": checkpoint} if checkpoint else {}),
        parts=("train", "test", "labels"),
        seed=config.seed,
        outside={"sources": voc_sources(config.evaluate.voc)},
    )


def size_further(run: Context, request: Request, inputs: Inputs) -> Size:
    """Estimate the cost of further training: the backbone at the photographs' size, without heads."""
    asked, image_size = request.settings["training"], request.settings["image_size"]
    network: Any = cost_of(inputs).shape if "checkpoint" in inputs else run.config.student
    cost = classifier(network.backbone, network.width, image_size, 2)
    area = (asked.get("side", image_size) / image_size) ** 2
    images = images_of(inputs, "photographs")
    count, batch = asked["steps"], asked["batch_size"]
    run.assume("detection, segmentation: only the backbone is counted, not the heads")
    work = (steps(run, "finetune", {}, cost, batch, count * area), passes(run, cost, images.test * area))
    return scored(10, (count * batch * cost.step + images.test * cost.forward) * area, *work)
