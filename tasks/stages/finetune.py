"""Finetune: a classifier from the few labels, for the student, the teacher and the student from scratch (baseline)."""

from __future__ import annotations

from typing import Any, Literal

from data.types import Artifact
from models.configs import Finetune
from tasks.config import Config
from tasks.stage import Job, Outcome, Request, Stage
from tasks.stages.manifest import sources

STAGE = Stage(name="finetune", kind="checkpoint", version=2, process="train")

Role = Literal["student", "teacher", "scratch"]


def plan(
    config: Config, manifest: Artifact, labels: Artifact, checkpoint: Artifact | None = None, *, role: Role, steps: int | None = None
) -> Request:  # fmt: skip
    """Ask for a classifier.

    Args:
        config: of the run.
        manifest: of the run's images.
        labels: the draw.
        checkpoint: where to start; None for the baseline.
        role: what is trained. The baseline draws its initial weights as the student of `transfer` did.
        steps: instead of `finetune.steps`: the baseline gets as many as all of the student's trainings together.
    """
    tuned = config.finetune.model_dump(exclude={"seed", "baseline", "baseline_learning_rate"})
    if role == "scratch":
        tuned |= {"steps": steps or tuned["steps"], "head_learning_rate": None, "freeze": False}
        tuned["learning_rate"] = config.finetune.baseline_learning_rate or tuned["learning_rate"]
    settings: dict[str, Any] = {
        "finetune": tuned,
        "role": role,
        "image_size": config.data.image_size,
        "precision": config.compute.precision,
    }
    if role == "scratch":
        settings["student"] = config.student.model_dump()
    return STAGE.request(
        settings=settings,
        inputs={"manifest": manifest, "labels": labels} | ({"checkpoint": checkpoint} if checkpoint else {}),
        parts=("train",),
        seed=config.seed if config.finetune.seed is None else config.finetune.seed,
        outside={"sources": sources(config)},
    )


def baseline_steps(config: Config, images: int) -> int:
    """Steps of the baseline: as many as transfer, fine-tuning and distillation of the student have together.

    Args:
        config: of the run.
        images: train + unlabelled images.
    """
    transfer, distill = config.transfer, config.distill
    passes = (
        (len(transfer.phases) * transfer.epochs, transfer.batch_size),
        (distill.rounds * distill.epochs, distill.batch_size),
    )
    return config.finetune.steps + sum(epochs * max(1, images // batch) for epochs, batch in passes)


def build(job: Job) -> Outcome:
    """Start from the checkpoint with a new classifier, or from scratch, and train on the draw."""
    from data.draws import key
    from models.network import Network, build_network
    from tasks import training

    wish, size = Finetune.model_validate(job.settings["finetune"]), job.settings["image_size"]
    classes = len(job.meta("manifest")["classes"])

    def start() -> Network:
        if job.settings["role"] == "scratch":
            student = job.settings["student"]
            return build_network(
                student["backbone"], size, width=student["width"], classes=classes, seed=key(job.seed, "student")
            )
        network = training.load(job.path("checkpoint"))
        return network.with_classifier(
            classes, keep_fc=wish.keep_fc, keep_head=wish.keep_head, seed=key(job.seed, "classifier")
        )

    return training.finetune(job, wish, start)
