"""Finetune: trains a classifier on the few labels, starting from student, teacher or scratch (baseline)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from data.types import Artifact
from models.configs.finetune import Finetune
from tasks.config import Config
from tasks.job import Job
from tasks.size import Context, Inputs, Size, classifier, images_of, trained
from tasks.sources import sources
from tasks.stage import Outcome, Request, Stage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from models.method import Method
    from models.network import Network
    from tasks.fit import Trained

STAGE = Stage(name="finetune", kind="checkpoint", version=2, process="train")

Role = Literal["student", "teacher", "scratch"]


def plan(
    config: Config,
    manifest: Artifact,
    labels: Artifact,
    checkpoint: Artifact | None = None,
    *,
    role: Role,
    steps: int | None = None,
) -> Request:
    """Request a classifier.

    Args:
        config: the run's configuration.
        manifest: the manifest of the run's images.
        labels: the drawn labels.
        checkpoint: the network to start from; None for the baseline.
        role: what is trained. The baseline (scratch) gets the same initial weights as the student of
            `transfer`.
        steps: number of steps, instead of `finetune.steps`. The baseline gets as many steps as all trainings
            of the student together.
    """
    tuned = config.finetune.settings(
        config.data.image_size, exclude=frozenset({"seed", "baseline", "baseline_learning_rate"})
    )
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
    """The number of steps of the baseline: the sum over the student's transfer, fine-tuning and distillation.

    Args:
        config: the run's configuration.
        images: number of train + unlabelled images.
    """
    transfer, distill = config.transfer, config.distill
    passes = (
        (len(transfer.phases) * transfer.epochs, transfer.batch_size),
        (distill.rounds * distill.epochs, distill.batch_size),
    )
    return config.finetune.steps + sum(epochs * max(1, images // batch) for epochs, batch in passes)


SELECTION = 0.25
"""Share of the steps for each learning rate that is tried."""


def size(run: Context, request: Request, inputs: Inputs) -> Size:
    """Estimate the artifact and its cost for a dry run."""
    config, asked = run.config, request.settings["finetune"]
    network: Any = config.pretext if request.settings["role"] == "teacher" else config.student
    cost = classifier(
        network.backbone, network.width, request.settings["image_size"], images_of(inputs).classes
    )
    tries = 1 + SELECTION * len(asked["learning_rates"])
    return trained(cost, cost.step * asked["steps"] * asked["batch_size"] * tries)


def build(job: Job) -> Outcome:
    """Train a classifier on the drawn labels.

    If there are validation labels and several learning rates, the best rate is chosen first. Each rate trains
    for a quarter of the steps on the train labels and is measured on the validation labels. The chosen rate
    then trains on all drawn labels, including the validation labels. Each training starts from the checkpoint
    with a new classifier, or from scratch.
    """
    import numpy as np

    from tasks.embedding import embed
    from tasks.fit import publish
    from tasks.rows import label_rows

    config, role = Finetune.model_validate(job.settings["finetune"]), job.settings["role"]
    index, label = label_rows(job.path("labels"), "train")
    held_out, held_out_label = label_rows(job.path("labels"), "validation")
    rate, found = config.learning_rate, {}
    if len(held_out) and len(config.learning_rates) > 1:
        for number, candidate in enumerate(config.learning_rates):
            steps = max(1, round(SELECTION * config.steps))
            short = config.model_copy(update={"learning_rate": candidate, "steps": steps})
            method, _ = _train(job, short, index, label, f"finetune-{role}-{number}")
            logits = embed(job, method.network, held_out, "logits", job.settings["image_size"])
            found[candidate] = float((logits.argmax(1) == held_out_label).mean())
        rate = max(found, key=lambda candidate: (found[candidate], -candidate))
        tried = ", ".join(f"{r:g}: {a:.3f}" for r, a in found.items())
        job.log(f"{role}: chose learning rate {rate:g}; validation accuracy by rate: {tried}")
    whole, classes = np.concatenate([index, held_out]), np.concatenate([label, held_out_label])
    order = np.argsort(whole)
    chosen = config.model_copy(update={"learning_rate": rate})
    method, trained = _train(job, chosen, whole[order], classes[order], f"finetune-{role}")
    outcome = publish(job, method.network, trained)
    outcome.meta |= {"learning_rate": rate, "validation": {f"{r:g}": a for r, a in found.items()}}
    return outcome


def _train(
    job: Job, config: Finetune, index: NDArray[np.int64], label: NDArray[np.int64], stage: str
) -> tuple[Method, Trained]:
    from data.order import Repeated
    from models.methods.finetune import FinetuneMethod
    from tasks.feed import ImageFeed, order_key
    from tasks.fit import fit

    method = FinetuneMethod(config, _start(job, config))
    order = Repeated(index, config.batch_size, config.steps)
    feed = ImageFeed(job.images(job.settings["image_size"]), order, index, label, order_key(job, stage))
    return method, fit(job, method, feed, config, epochs=1, stage=stage, part=stage)


def _start(job: Job, config: Finetune) -> Network:
    """The network that training starts from: the checkpoint with a new classifier, or one from scratch."""
    from data.draws import key
    from models.network import build_network
    from models.saved import load

    classes, size = len(job.meta("manifest")["classes"]), job.settings["image_size"]
    if job.settings["role"] == "scratch":
        student, seed = job.settings["student"], key(job.seed, "student")
        return build_network(student["backbone"], size, width=student["width"], classes=classes, seed=seed)
    seed = key(job.seed, "classifier")
    return load(job.path("checkpoint")).with_classifier(
        classes, keep_fc=config.keep_fc, keep_head=config.keep_head, seed=seed
    )
