"""Finetune: trains a classifier on the few labels, starting from student, teacher or scratch (baseline)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from data.types import Artifact
from models.configs.finetune import Finetune
from tasks.config import Config
from tasks.job import Job
from tasks.planning import FOLD_IMAGES
from tasks.size import Context, Inputs, Size, classifier, cost_of, decoded, images_of, passes, steps, trained
from tasks.sources import sources
from tasks.stage import Outcome, Request, Stage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from models.method import Method
    from models.network import Network
    from tasks.fit import Trained

STAGE = Stage(name="finetune", kind="checkpoint", version=2, process="train")

JUDGED = 2
"""Version of how classifiers are judged. Trainings that judge none keep their names when it changes."""

Role = Literal["student", "teacher", "scratch"]
"""What is trained: the student of transfer, the teacher, or an untrained student (the baseline)."""


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
        role: what is trained. An untrained student gets the same initial weights as the student of
            `transfer`.
        steps: number of steps of an untrained student, instead of `finetune.steps`.
    """
    tuned = config.finetune.settings(
        config.data.image_size,
        exclude=frozenset({"seed", "baseline", "baseline_learning_rate", "baseline_mixup", "baseline_steps"}),
    )
    if role == "scratch":
        tuned |= {"steps": steps or tuned["steps"], "head_learning_rate": None, "freeze": False}
        tuned["learning_rate"] = config.finetune.baseline_learning_rate or tuned["learning_rate"]
        tuned.pop("head_first", None)
        if config.finetune.baseline_mixup is not None:
            tuned["mixup"] = config.finetune.baseline_mixup
        if not tuned.get("mixup"):
            tuned.pop("mixup", None)
    settings: dict[str, Any] = {
        "finetune": tuned,
        "role": role,
        "image_size": config.data.image_size,
        "precision": config.compute.precision,
    }
    if role == "scratch":
        settings["student"] = config.student.settings()
    if config.ship.compare:
        settings["folds"] = config.ship.folds
    if config.ship.compare or tuned.get("head_first"):
        settings["judged"] = JUDGED
    if config.ship.compare and role == "scratch":
        views = config.finetune.alternatives()
        settings["views"] = {name: each.settings(config.data.image_size) for name, each in views.items()}
        settings["fold_images"] = FOLD_IMAGES
    return STAGE.request(
        settings=settings,
        inputs={"manifest": manifest, "labels": labels} | ({"checkpoint": checkpoint} if checkpoint else {}),
        parts=("train", "unlabelled") if "fold_images" in settings else ("train",),
        seed=config.seed if config.finetune.seed is None else config.finetune.seed,
        outside={"sources": sources(config)},
    )


def baseline_steps(config: Config, images: int) -> int:
    """The number of steps of the baseline.

    `finetune.baseline_steps`, or else the sum over the student's transfer, fine-tuning and distillation.

    Args:
        config: the run's configuration.
        images: number of train + unlabelled images.
    """
    if config.finetune.baseline_steps is not None:
        return config.finetune.baseline_steps
    transfer, distill = config.transfer, config.distill
    passes = ((len(transfer.phases), transfer.length(images)), (distill.rounds, distill.length(images)))
    return config.finetune.steps + sum(times * epochs * steps for times, (epochs, steps) in passes)


SELECTION = 0.25
"""Share of the steps for each learning rate that is tried."""


def size(run: Context, request: Request, inputs: Inputs) -> Size:
    """Estimate the artifact and its cost for a dry run."""
    config, asked = run.config, request.settings["finetune"]
    images, student = images_of(inputs), config.student
    if "checkpoint" in inputs:
        start = cost_of(inputs).shape
        cost = classifier(start.backbone, start.width, start.image_size, images.classes, start.form)
        kept = {"pretext": start.pretext, "resized": start.resized}
        cost = replace(cost, shape=cost.shape.model_copy(update=kept))
        if start.own_input:  # as in `_train`
            asked = asked | {"view_size": None}
    else:
        cost = classifier(student.backbone, student.width, request.settings["image_size"], images.classes)
    rates, tries = len(asked["learning_rates"]), 1.0
    if rates > 1:
        tries += SELECTION * rates
    if inputs["labels"].rows > images.classes:  # or else no class has a second label, and no fold any image
        tries += request.settings.get("folds", 0) + max(0, len(request.settings.get("views", ())) - 1)
    count, batch = asked["steps"] * tries, asked["batch_size"]
    size = trained(cost, cost.step * count * batch, steps(run, "finetune", asked, cost, batch, count))
    size.seconds = decoded(run, images, count * batch, cost.shape.resized)
    if "fold_images" in request.settings:
        from models.device import OF_FEATURES

        shown = request.settings["folds"] * min(images.all, request.settings["fold_images"])
        size.work += (passes(run, cost, shown, precision=OF_FEATURES),)
    return size


def build(job: Job) -> Outcome:
    """Train a classifier on the drawn labels.

    If there are validation labels and several learning rates, the best rate is chosen first. Each rate trains
    for a quarter of the steps on the train labels and is measured on the validation labels. The chosen rate
    then trains on all drawn labels, including the validation labels. Each training starts from the checkpoint
    with a new classifier, or from scratch.

    With `folds`, the classifier is also trained once per fold without the fold's labels, and its predictions
    for these are written as out_of_fold.parquet. With `views`, the first fold chooses among them. With
    `fold_images`, the features that the folds' networks have of images are written, too.
    """
    import numpy as np

    from models.evaluation.contenders import OutOfFold
    from tasks.embedding import embed
    from tasks.fit import publish
    from tasks.rows import drawn_rows, label_rows

    config, role = Finetune.model_validate(job.settings["finetune"]), job.settings["role"]
    index, label = label_rows(job.path("labels"), "train")
    held_out, held_out_label = label_rows(job.path("labels"), "validation")
    rate, found = config.learning_rate, {}
    if len(held_out) and len(config.learning_rates) > 1:
        for number, candidate in enumerate(config.learning_rates):
            steps = max(1, round(SELECTION * config.steps))
            short = config.model_copy(update={"learning_rate": candidate, "steps": steps})
            method, _ = _train(job, short, index, label, f"finetune-{role}-{number}")
            logits = embed(job, method.network, held_out, "logits")
            held = OutOfFold(held_out_label.astype(np.int64), logits.astype(np.float64), config.balanced)
            found[candidate] = held.accuracy
        rate = max(found, key=lambda candidate: (found[candidate], -candidate))
        tried = ", ".join(f"{r:g}: {a:.3f}" for r, a in found.items())
        job.log(f"{role}: chose learning rate {rate:g}; validation accuracy by rate: {tried}")
    whole, classes = drawn_rows(job.path("labels"))
    chosen = config.model_copy(update={"learning_rate": rate})
    views: dict[str, Any] = {}
    if "folds" in job.settings:
        views, chosen = _out_of_fold(job, chosen, whole, classes)
    method, trained = _train(job, chosen, whole, classes, f"finetune-{role}")
    outcome = publish(job, method.network, trained)
    outcome.meta |= views | {"learning_rate": rate, "validation": {f"{r:g}": a for r, a in found.items()}}
    return outcome


def _out_of_fold(
    job: Job, config: Finetune, index: NDArray[np.int64], label: NDArray[np.int64]
) -> tuple[dict[str, Any], Finetune]:
    """Train without each fold in turn, and write the predictions for the images left out.

    If there are several views, the first fold is left out with each of them. Those with the lowest loss on it
    are used from then on.

    Returns:
        For meta.json the chosen views and the loss with each (`views`, `views_loss`), empty if there was no
        choice; and the configuration with the chosen views.
    """
    import numpy as np

    from models.evaluation.contenders import OutOfFold, folds_of, like_all
    from tasks.embedding import embed
    from tasks.out_of_fold import Fold, write_fold, write_out_of_fold

    fold = folds_of(label, job.settings["folds"], job.seed)
    shown = _shown(job, index)
    logits = np.zeros((len(label), len(job.meta("manifest")["classes"])), np.float32)
    views = {name: config.model_copy(update=given) for name, given in job.settings.get("views", {}).items()}
    views, told = views or {"": config}, dict[str, Any]()
    for number in np.unique(fold[fold >= 0]):
        kept, found, networks = fold != number, {}, {}
        for name, each in views.items():
            stage = f"{job.settings['role']}{name and '-'}{name}-fold-{number}"
            method, _ = _train(job, each, index[kept], label[kept], stage)
            z = embed(job, method.network, index[~kept], "logits").astype(np.float64)
            if not config.balanced:
                z = like_all(z, label[kept], label)
            found[name] = OutOfFold(label[~kept].astype(np.int64), z, config.balanced)
            networks[name] = method.network
        best = min(found, key=lambda name: found[name].loss)
        if len(views) > 1:
            told = {"views": best, "views_loss": {name: each.loss for name, each in found.items()}}
            losses = ", ".join(f"{name}: {loss:.3f}" for name, loss in told["views_loss"].items())
            job.log(f"{job.settings['role']}: chose the views {best}; loss on the first fold: {losses}")
        views, logits[~kept] = {best: views[best]}, found[best].logits
        if len(shown):
            layer = networks[best].last_layer
            x = embed(job, networks[best], shown, layer)
            write_fold(job.out, int(number), Fold(index[~kept], shown, x), layer)
    known = fold >= 0
    write_out_of_fold(job.out, index[known], label[known], logits[known])
    return told, next(iter(views.values()))


def _shown(job: Job, labelled: NDArray[np.int64]) -> NDArray[np.int64]:
    """The images whose features the folds' networks write: the labelled ones and a random part of the others.

    Returns:
        (N,) int64 ascending; empty if no features are written.
    """
    import numpy as np

    from data.draws import key, permutation
    from tasks.rows import manifest_rows

    if "fold_images" not in job.settings:
        return np.zeros(0, np.int64)
    index, _ = manifest_rows(job.path("manifest"), ("train", "unlabelled"))
    others = np.setdiff1d(index, labelled)
    some = others[permutation(key(job.seed, "fold_images"), len(others))[: job.settings["fold_images"]]]
    return np.union1d(labelled, some)


def _train(
    job: Job, config: Finetune, index: NDArray[np.int64], label: NDArray[np.int64], stage: str
) -> tuple[Method, Trained]:
    from data.order import Order, Repeated, UniformOverClusters
    from models.methods.finetune import FinetuneMethod
    from tasks.feed import ImageFeed, order_key
    from tasks.fit import fit

    network = _start(job, config, index, label)
    if network.own_input:  # the view's size in px is for the run's own networks
        config = config.model_copy(update={"view_size": None})
    method = FinetuneMethod(config, network)
    order: Order = Repeated(index, config.batch_size, config.steps)
    if config.balanced:  # each class is as likely as any other
        order = UniformOverClusters(index, label, config.batch_size, config.steps)
    feed = ImageFeed(job.images_for(method.network), order, index, label, order_key(job, stage))
    return method, fit(job, method, feed, config, epochs=1, stage=stage, part=stage)


def _start(job: Job, config: Finetune, index: NDArray[np.int64], label: NDArray[np.int64]) -> Network:
    """The network that training starts from: the checkpoint with a new classifier, or one from scratch."""
    from data.draws import key
    from models.evaluation.linear_head import fit_head, set_head
    from models.network import build_network
    from models.saved import load
    from tasks.embedding import embed

    classes, size = len(job.meta("manifest")["classes"]), job.settings["image_size"]
    if job.settings["role"] == "scratch":
        student, seed = job.settings["student"], key(job.seed, "student")
        return build_network(student["backbone"], size, width=student["width"], classes=classes, seed=seed)
    seed = key(job.seed, "classifier")
    network = load(job.path("checkpoint")).with_classifier(
        classes, keep_fc=config.keep_fc, keep_head=config.keep_head, seed=seed
    )
    if config.head_first:
        x = embed(job, network, index, network.last_layer)
        set_head(network, fit_head(x, label, classes, seed=job.seed, balanced=config.balanced))
    return network
