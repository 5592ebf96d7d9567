"""Distill: trains the student on the teacher's probabilities for all images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from data.types import Artifact
from models.configs.distill import Distill
from tasks.config import Config
from tasks.job import Job
from tasks.phrases import percent
from tasks.size import Context, Inputs, Size, classifier, decoded, images_of, passes, steps, trained
from tasks.sources import sources
from tasks.stage import Outcome, Request, Stage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from models.network import Network
    from tasks.feed import ImageFeed

STAGE = Stage(name="distill", kind="checkpoint", version=3, process="train")

UNSEEN, LEAST, MOST = 0.1, 100, 1000
"""Where candidates are compared, this share of the images without a drawn label is left out, at most `MOST`
images, unless there are fewer than `LEAST` images. On images that it did not learn, `ship` sees how much the
student has lost of what it was told."""

STATISTICS, STATISTICS_BATCH = 2000, 128
"""Precise batch norm sees at most this many images, in batches of this many."""

SCRATCH = "scratch"
ALONE = (SCRATCH, "scratch-neighbours")
"""Classifiers that owe nothing to teacher and transfer. The network from scratch knows what they know."""
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
        labels: the drawn labels; read by the labelled loss (alpha below 1), and if candidates are compared.
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
    if config.ship.compare:
        settings["unseen"] = UNSEEN
    inputs = {"manifest": manifest, "probabilities": probabilities}
    if config.distill.alpha < 1 or config.ship.compare:
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
    seen = epochs * each * batch
    if config.precise_bn:
        from models.device import OF_FEATURES

        some = min(n, STATISTICS)
        seen, size.work = seen + some, (*size.work, passes(run, cost, some, precision=OF_FEATURES))
    size.seconds = decoded(run, images, seen)
    return size


def build(job: Job) -> Outcome:
    """Train on the images that have probabilities. If candidates are compared, a few are left out."""
    import numpy as np
    import torch

    from data.draws import key
    from data.order import Shuffled
    from data.tables import read_vectors
    from models.methods.distill import DistillMethod
    from models.network import build_network
    from models.saved import load
    from tasks.feed import ImageFeed, order_key
    from tasks.fit import fit, publish
    from tasks.rows import label_rows
    from tasks.unseen import write_unseen

    config = Distill.model_validate(job.settings["distill"])
    size, student = job.settings["image_size"], job.settings["student"]
    index, probability = read_vectors(job.path("probabilities"))
    classes = probability.shape[1]
    seed = key(job.seed, "student")
    starts = [name for name in job.request.inputs if name not in NOT_STARTS]
    start = _favoured(job, starts) if starts else "checkpoint"
    # A further round goes on as the first one began.
    before = job.meta(start) if start in job.request.inputs else {}
    began, views = start if starts else before.get("start"), before.get("views")
    if began is not None:
        config = _suited(config, began)
    if views:
        config = _seeing(config, views)
    if start not in job.request.inputs:
        network = build_network(student["backbone"], size, width=student["width"], classes=classes, seed=seed)
    else:
        network = load(job.path(start))
        if network.classes != classes or not job.settings["fine_tuned"]:
            network = network.with_classifier(classes, keep_fc=job.settings["keep_fc"], seed=seed)
    labels = None
    if config.alpha < 1:
        labels = torch.full((int(index.max()) + 1,), -1, dtype=torch.int64)
        for role in ("train", "validation"):
            rows, label = label_rows(job.path("labels"), role)
            labels[torch.from_numpy(rows)] = torch.from_numpy(label)
    method = DistillMethod(config, network, labels)
    stage = f"distill-{job.settings['round']}"
    if "unseen" in job.settings:
        unseen = _unseen(job, index)
        write_unseen(job.out, unseen)
        learned = ~np.isin(index, unseen)
        index, probability = index[learned], probability[learned]
    epochs, steps = config.length(len(index))
    order = Shuffled(index, config.batch_size, steps=steps)
    feed = ImageFeed(
        job.images_for(network), order, index, probability.astype(np.float32), order_key(job, stage)
    )
    trained = fit(job, method, feed, config, epochs=epochs, stage=stage)
    if config.precise_bn:
        _make_precise(job, method.network, feed)
    outcome = publish(job, method.network, trained)
    outcome.meta |= {"start": began, "views": views} if began is not None else {}
    return outcome


def _make_precise(job: Job, network: Network, feed: ImageFeed) -> None:
    """Compute the statistics of batch norms again, from whole images, under the final weights.

    Training leaves a moving average over random views, blended ones too, and over weights that were still
    changing. In tests, the network sees whole images (Wu and Johnson, arXiv 2105.07576, section 3).
    """
    import numpy as np
    import torch
    from torch.optim.swa_utils import update_bn

    from data.draws import key, permutation
    from data.errors import Interrupted
    from models.augment import centre
    from models.device import resolve_device

    device = resolve_device(job.compute.device)
    some = feed.index[permutation(key(job.seed, "precise_bn"), len(feed.index))[:STATISTICS]]

    def views() -> Iterator[torch.Tensor]:
        for part in np.array_split(some, -(-len(some) // STATISTICS_BATCH)):  # equally large
            if job.interrupted():
                raise Interrupted("stopped while computing the statistics of batch norms")
            yield centre(torch.from_numpy(feed.images.read(part)).to(device), network.image_size)

    update_bn(views(), network.to(device))


def _unseen(job: Job, index: NDArray[np.int64]) -> NDArray[np.int64]:
    """The images to leave out, ascending; the same ones in every round."""
    import numpy as np

    from data.draws import key, permutation
    from tasks.rows import drawn_rows

    free = np.setdiff1d(index, drawn_rows(job.path("labels"))[0])
    share = job.settings["unseen"] if len(index) >= LEAST else 0.0
    some = permutation(key(job.seed, "unseen"), len(free))[: min(MOST, int(share * len(free)))]
    return np.sort(free[some])


def _seeing(config: Distill, views: str) -> Distill:
    """The configuration with the views that the labels chose for the network from scratch, by their name.

    Fine-tuning may have other views than distillation. If only these change colours, they are what `colours`
    adds to the others.
    """
    chosen = config.alternatives().get(views)
    return config if chosen is None else config.model_copy(update=chosen.model_dump())


def _suited(config: Distill, start: str) -> Distill:
    """Give a configuration the rate and the mix-up that suit its start: scratch or a network of transfer."""
    if start == SCRATCH:
        return config
    rate, mixup = config.transferred_learning_rate, config.transferred_mixup
    update = {"learning_rate": rate, "mixup": mixup}
    return config.model_copy(update={name: value for name, value in update.items() if value is not None})


def _favoured(job: Job, names: list[str]) -> str:
    """The classifier that the labels favour.

    It is the network from scratch if this one and its neighbours have more weight in the mixture than all
    classifiers that rest on teacher and transfer together. Else it is the first of the others, or one whose
    loss is lower beyond chance.

    A loss is lower beyond chance if the lead is more than one standard error. Losses are compared rather than
    accuracies, because with few labels these often tie.
    """
    from tasks.judged import MIXTURE, read_judged

    judged = read_judged(job.path("probabilities"))
    weight = {name: row["weight"] for name, row in judged.rows.items()}
    alone = sum(weight.get(name, 0.0) for name in ALONE)
    rested = sum(w for name, w in weight.items() if name not in (*ALONE, "pixels", MIXTURE))
    if SCRATCH in names and alone > rested:
        job.log(
            f"starts from {SCRATCH}: it and its neighbours have {alone:.0%} of the mixture, and all that "
            f"rests on transfer has {rested:.0%}"
        )
        return SCRATCH
    usual, *others = [name for name in names if name != SCRATCH]
    ahead = {name: judged.likelier(name, usual) for name in others}
    lead = {name: mean for name, (mean, error) in ahead.items() if mean > error}
    chosen = max(lead, key=lambda name: lead[name], default=usual)
    right = f"{percent(judged.accuracy(chosen), 0)} right" if len(judged.index) else "nothing was judged"
    job.log(f"starts from {chosen}: {right} out of fold")
    return chosen
