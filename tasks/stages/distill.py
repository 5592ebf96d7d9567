"""Distill: the student learns the teacher's probabilities on all images."""

from __future__ import annotations

from typing import Any

from data.types import Artifact
from models.configs import Distill
from tasks.config import Config
from tasks.stage import Job, Outcome, Request, Stage
from tasks.stages.manifest import sources

STAGE = Stage(name="distill", kind="checkpoint", version=3, process="train")


def plan(
    config: Config, manifest: Artifact, labels: Artifact, probabilities: Artifact, checkpoint: Artifact | None = None, *, round: int = 1
) -> Request:  # fmt: skip
    """Ask for the final student.

    Args:
        config: of the run.
        manifest: of the run's images.
        labels: the draw; read for the labelled loss only (alpha below 1).
        probabilities: of train + unlabelled images.
        checkpoint: the student to start from; None: from scratch.
        round: from the second one on the student goes on with its classifier.
    """
    settings: dict[str, Any] = {
        "distill": config.distill.model_dump(exclude={"seed", "init", "rounds"}),
        "student": config.student.model_dump(),
        "fine_tuned": round > 1 or config.distill.init == "finetuned",
        "round": round,
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


def build(job: Job) -> Outcome:
    """Train on all images that have probabilities."""
    import numpy as np
    import torch

    from data.draws import key
    from data.order import Shuffled
    from data.tables import read_vectors
    from models.methods.distill import DistillMethod
    from models.network import build_network
    from tasks import training

    wish = Distill.model_validate(job.settings["distill"])
    size, student = job.settings["image_size"], job.settings["student"]
    index, probability = read_vectors(job.path("probabilities"))
    classes = probability.shape[1]
    seed = key(job.seed, "student")
    if "checkpoint" not in job.request.inputs:
        network = build_network(student["backbone"], size, width=student["width"], classes=classes, seed=seed)
    else:
        network = training.load(job.path("checkpoint"))
        if network.classes != classes or not job.settings["fine_tuned"]:
            network = network.with_classifier(classes, keep_fc=job.settings["keep_fc"], seed=seed)
    labels = None
    if "labels" in job.request.inputs:
        labels = torch.full((int(index.max()) + 1,), -1, dtype=torch.int64)
        for role in ("train", "validation"):
            rows, label = training.label_rows(job.path("labels"), role)
            labels[torch.from_numpy(rows)] = torch.from_numpy(label)
    method = DistillMethod(wish, network, labels)
    stage = f"distill-{job.settings['round']}"
    order = Shuffled(index, wish.batch_size)
    feed = training.ImageFeed(
        job.images(size), order, index, probability.astype(np.float32), training.order_key(job, stage)
    )
    return training.train_and_publish(job, method, feed, wish, epochs=wish.epochs, stage=stage)
