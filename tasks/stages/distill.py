"""Distill: trains the student on the teacher's probabilities for all images."""

from __future__ import annotations

from typing import Any

from data.types import Artifact
from models.configs.distill import Distill
from tasks.config import Config
from tasks.job import Job
from tasks.phrases import percent
from tasks.size import Context, Inputs, Size, classifier, decoded, images_of, steps, trained
from tasks.sources import sources
from tasks.stage import Outcome, Request, Stage

STAGE = Stage(name="distill", kind="checkpoint", version=3, process="train")

NOT_STARTS = ("manifest", "labels", "probabilities", "checkpoint")
"""Inputs that are no classifiers to choose the start from."""


def plan(
    config: Config,
    manifest: Artifact,
    labels: Artifact,
    probabilities: Artifact,
    checkpoint: Artifact | None = None,
    *,
    round: int = 1,
    **starts: Artifact,
) -> Request:
    """Request the student of a round of distillation.

    Args:
        config: the run's configuration.
        manifest: the manifest of the run's images.
        labels: the drawn labels; only the labelled loss reads them (alpha below 1).
        probabilities: the probabilities of train + unlabelled images.
        checkpoint: the student to start from; None: from scratch.
        round: number of the round, from 1. From the second round on the student keeps its classifier.
        **starts: classifiers with the student's network, by name. The one that the labels favour is the
            start. `probabilities` must come from `weigh`, which has judged them.
    """
    settings: dict[str, Any] = {
        "distill": config.distill.settings(
            config.data.image_size, exclude=frozenset({"seed", "init", "rounds"})
        ),
        "student": config.student.settings(),
        "fine_tuned": round > 1 or config.distill.init in ("finetuned", "favoured"),
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
    inputs |= starts
    return STAGE.request(
        settings=settings,
        inputs=inputs,
        parts=("train", "unlabelled"),
        seed=config.seed if config.distill.seed is None else config.distill.seed,
        outside={"sources": sources(config)},
    )


def size(run: Context, request: Request, inputs: Inputs) -> Size:
    """Estimate the artifact and its cost for a dry run."""
    images, student, given = images_of(inputs), request.settings["student"], request.settings["distill"]
    cost = classifier(student["backbone"], student["width"], request.settings["image_size"], images.classes)
    n, config = images.all, Distill.model_validate(given)
    batch, (epochs, each) = max(1, min(config.batch_size, n)), config.length(n)
    work = steps(run, "distill", given, cost, batch, epochs * each)
    size = trained(cost, cost.step * config.seen(n), work)
    size.seconds = decoded(run, images, epochs * each * batch)
    return size


def build(job: Job) -> Outcome:
    """Train on all images that have probabilities."""
    import numpy as np
    import torch

    from data.draws import key
    from data.order import Shuffled
    from data.tables import read_vectors
    from models.methods.distill import DistillMethod
    from models.network import build_network
    from models.saved import load
    from tasks.feed import ImageFeed, order_key
    from tasks.fit import train_and_publish
    from tasks.rows import label_rows

    config = Distill.model_validate(job.settings["distill"])
    size, student = job.settings["image_size"], job.settings["student"]
    index, probability = read_vectors(job.path("probabilities"))
    classes = probability.shape[1]
    seed = key(job.seed, "student")
    starts = [name for name in job.request.inputs if name not in NOT_STARTS]
    start = _favoured(job, starts) if starts else "checkpoint"
    if starts and (views := job.meta(start).get("views")):
        config = _seeing(config, views)
    if start not in job.request.inputs:
        network = build_network(student["backbone"], size, width=student["width"], classes=classes, seed=seed)
    else:
        network = load(job.path(start))
        if network.classes != classes or not job.settings["fine_tuned"]:
            network = network.with_classifier(classes, keep_fc=job.settings["keep_fc"], seed=seed)
    labels = None
    if "labels" in job.request.inputs:
        labels = torch.full((int(index.max()) + 1,), -1, dtype=torch.int64)
        for role in ("train", "validation"):
            rows, label = label_rows(job.path("labels"), role)
            labels[torch.from_numpy(rows)] = torch.from_numpy(label)
    method = DistillMethod(config, network, labels)
    stage = f"distill-{job.settings['round']}"
    epochs, steps = config.length(len(index))
    order = Shuffled(index, config.batch_size, steps=steps)
    feed = ImageFeed(
        job.images_for(network), order, index, probability.astype(np.float32), order_key(job, stage)
    )
    return train_and_publish(job, method, feed, config, epochs=epochs, stage=stage)


def _seeing(config: Distill, views: str) -> Distill:
    """The configuration with the views that the labels chose for the network from scratch, by their name.

    Fine-tuning may have other views than distillation. If only these change colours, they are what `colours`
    adds to the others.
    """
    chosen = config.alternatives().get(views)
    return config if chosen is None else config.model_copy(update=chosen.model_dump())


def _favoured(job: Job, names: list[str]) -> str:
    """The classifier that the labels favour: the first one, or one whose loss is lower beyond chance.

    A loss is lower beyond chance if the lead is more than one standard error. Losses are compared rather than
    accuracies, because with few labels these often tie.
    """
    from tasks.judged import read_judged

    judged = read_judged(job.path("probabilities"))
    usual, *others = names
    ahead = {name: judged.likelier(name, usual) for name in others}
    lead = {name: mean for name, (mean, error) in ahead.items() if mean > error}
    chosen = max(lead, key=lambda name: lead[name], default=usual)
    right = f"{percent(judged.accuracy(chosen), 0)} right" if len(judged.index) else "nothing was judged"
    job.log(f"starts from {chosen}: {right} out of fold")
    return chosen
