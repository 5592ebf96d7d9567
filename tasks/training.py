"""What the training stages share: from a job to a published checkpoint, by way of a resumable state.

Imports torch and belongs to the `train` process; stage files import it inside `build`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data.checkpoints import read_arrays, read_description, write_checkpoint
from data.draws import key
from data.errors import CollapsedError, Interrupted
from data.images import Images
from data.order import Order, Repeated
from data.schemas import CODES, LABELS, MANIFEST
from data.tables import column, read_table, write_table
from models.configs import Finetune, Optimization, Views
from models.engine import History, TrainingReport, resolve_device, resolve_precision, train
from models.inference import augmented, run
from models.method import Batch, Method
from models.methods.finetune import FinetuneMethod
from models.network import Network
from models.schedules import SCHEDULES
from tasks.stage import Job, Outcome, require


class ImageFeed:
    """Batches of images in a given order, with their targets.

    Args:
        images: pixels by manifest index.
        order: positions of each batch, a function of (key, epoch, step).
        index: (N,) int64, manifest's index of each position.
        target: (N,) int64 classes or (N, C) float32 probabilities, or None.
        order_key: what the order is drawn by.
    """

    def __init__(
        self,
        images: Images,
        order: Order,
        index: NDArray[np.int64],
        target: NDArray[Any] | None,
        order_key: int,
    ) -> None:
        self.images, self.order, self.index, self.target, self.key = images, order, index, target, order_key
        self.steps_per_epoch = order.steps_per_epoch

    def batch(self, epoch: int, step: int) -> Batch:
        """The batch of a step within an epoch; CPU tensors."""
        position = self.order.batch(epoch, step, self.key)
        index = self.index[position]
        target = None if self.target is None else torch.from_numpy(self.target[position])
        return Batch(images=torch.from_numpy(self.images.read(index)), index=torch.from_numpy(index), target=target)

    def sweep(self, batch_size: int = 512) -> Iterator[Batch]:
        """All images once, in order of position."""
        for start in range(0, len(self.index), batch_size):
            index = self.index[start : start + batch_size]
            yield Batch(images=torch.from_numpy(self.images.read(index)), index=torch.from_numpy(index))


@dataclass(frozen=True)
class Trained:
    """What a training leaves behind besides weights; `warnings` are sentences that everybody should read."""

    history: History
    warnings: list[str]


def fit(
    job: Job,
    method: Method,
    feed: ImageFeed,
    config: Optimization,
    *,
    epochs: int,
    stage: str,
    part: str = "training",
    stop_on_collapse: bool = False,
) -> Trained:
    """Train, going on from the draft's state if there is one.

    Args:
        job: of the stage.
        method: what to train.
        feed: its batches.
        config: of its optimizer; warm-up and schedule are read here.
        epochs: passes over the feed.
        stage: what draws are keyed by, besides the seed: trainings of one run must not share them.
        part: file name of the state, for a stage that trains more than once.
        stop_on_collapse: whether outputs that have become all alike end the training.

    Raises:
        CollapsedError: they have.
    """
    device = resolve_device(job.compute.device)
    path = job.state / f"{part}.pt"
    resume = torch.load(path, map_location="cpu", weights_only=True) if path.exists() else None
    collapses: list[tuple[int, str]] = []
    if resume is not None:
        job.log(f"going on from step {resume['step']} of {resume['steps']}")
        collapses += resume.pop("collapses", [])

    def collapsed(epoch: int, measure: str) -> None:
        collapses.append((epoch, measure))
        if stop_on_collapse:
            raise CollapsedError(f"{_collapse(stage, collapses, epochs)}. Try a lower learning_rate, a larger batch_size, or another method")  # fmt: skip
        if len(collapses) == 1:
            job.log(f"warning: {_collapse(stage, collapses, epochs)}")

    def save(state: dict[str, Any]) -> None:
        temporary = path.with_suffix(".new")
        torch.save(state | {"collapses": collapses}, temporary)
        os.replace(temporary, path)

    history = train(
        method,
        feed,
        epochs=epochs,
        seed=job.seed,
        stage=stage,
        schedule=partial(SCHEDULES[config.schedule], warmup=config.warmup),
        device=device,
        precision=resolve_precision(job.settings["precision"], device),
        sweep=feed.sweep,
        resume=resume,
        save=save,
        report=lambda now: _tell(job, now),
        collapsed=collapsed,
        interrupted=job.interrupted,
    )
    return Trained(history, [_collapse(stage, collapses, epochs)] if collapses else [])


def _collapse(stage: str, found: list[tuple[int, str]], epochs: int) -> str:
    """One sentence on all epochs, counted from 0, after which outputs were all alike."""
    first, last = found[0][0] + 1, found[-1][0] + 1
    when = f"after epoch {last}" if first == last else f"after {len(found)} epochs, from {first} to {last}"
    return f"{stage}: all outputs were alike {when} of {epochs}: {found[-1][1]}"


def train_and_publish(
    job: Job, method: Method, feed: ImageFeed, config: Optimization, *, epochs: int, stage: str, stop_on_collapse: bool = False
) -> Outcome:  # fmt: skip
    """`fit`, then write the checkpoint."""
    trained = fit(job, method, feed, config, epochs=epochs, stage=stage, stop_on_collapse=stop_on_collapse)
    return publish(job, method.network, trained)


def _tell(job: Job, now: TrainingReport) -> None:
    job.report(
        done=now.step,
        total=now.steps,
        epoch=now.epoch,
        epochs=now.epochs,
        rate=now.images_per_second,
        eta=now.eta,
        loss=now.loss,
        learning_rate=now.learning_rate,
        data_share=now.data_share,
    )


SELECTION = 0.25
"""Share of the steps that a rate is given to show what it is worth."""


def finetune(job: Job, config: Finetune, start: Callable[[], Network]) -> Outcome:
    """Train a classifier on the draw; where there is a validation part and a grid, choose the rate by it first.

    Rates are compared after a quarter of the steps on the draw's train part; the chosen one then trains on the whole
    draw, validation part included.

    Args:
        job: of the stage; inputs `manifest` and `labels`.
        config: of fine-tuning.
        start: the network to begin with, made anew for each training.
    """
    role, size = job.settings["role"], job.settings["image_size"]
    index, label = label_rows(job.path("labels"), "train")
    held_out, held_out_label = label_rows(job.path("labels"), "validation")
    rate, found = config.learning_rate, {}
    if len(held_out) and len(config.learning_rates) > 1:
        for number, candidate in enumerate(config.learning_rates):
            short = config.model_copy(
                update={"learning_rate": candidate, "steps": max(1, round(SELECTION * config.steps))}
            )
            method, _ = _finetune_once(job, short, start(), index, label, size, f"finetune-{role}-{number}")
            logits = embed(job, method.network, held_out, "logits", size)
            found[candidate] = float((logits.argmax(1) == held_out_label).mean())
        rate = max(found, key=lambda candidate: (found[candidate], -candidate))
        job.log(f"{role}: learning rate {rate:g} of " + ", ".join(f"{r:g}: {a:.3f}" for r, a in found.items()))
    whole, classes = np.concatenate([index, held_out]), np.concatenate([label, held_out_label])
    order = np.argsort(whole)
    chosen = config.model_copy(update={"learning_rate": rate})
    method, trained = _finetune_once(job, chosen, start(), whole[order], classes[order], size, f"finetune-{role}")
    outcome = publish(job, method.network, trained)
    outcome.meta |= {"learning_rate": rate, "validation": {f"{r:g}": a for r, a in found.items()}}
    return outcome


def _finetune_once(
    job: Job, config: Finetune, network: Network, index: NDArray[np.int64], label: NDArray[np.int64], size: int, stage: str
) -> tuple[Method, Trained]:  # fmt: skip
    method = FinetuneMethod(config, network)
    order = Repeated(index, config.batch_size, config.steps)
    feed = ImageFeed(job.images(size), order, index, label, order_key(job, stage))
    return method, fit(job, method, feed, config, epochs=1, stage=stage, part=stage)


def embed(
    job: Job, network: Network, index: NDArray[np.int64], layer: str, size: int, view: str | None = None
) -> NDArray[np.float32]:
    """One layer of a network for some images, in memory: (N, D) float32.

    Args:
        job: of the stage.
        network: which.
        index: (N,) of the images.
        layer: of the network.
        size: side of what it sees, px.
        view: name of a random view by the usual augmentations; None: the centre.
    """
    device = resolve_device(job.compute.device)
    blocks = run(
        network,
        lambda x: network.features(x, layer),
        job.images(size).read,
        index,
        batch_size=512,
        size=size,
        device=device,
        precision=resolve_precision(job.settings["precision"], device),
        views=None if view is None else augmented(Views(), 1, 0, view, size),
    )
    return np.concatenate([block for _, block in blocks])


def publish(job: Job, network: Network, trained: Trained) -> Outcome:
    """Write a network as the job's checkpoint, and say what it took."""
    history = trained.history
    arrays = {name: tensor.detach().cpu().float().numpy() for name, tensor in network.state_dict().items()}
    rows = [(row.step, row.epoch, row.name, row.value) for row in history.rows]
    write_checkpoint(job.out, arrays, {**network.description(), "class_names": class_names(job)}, rows)
    device = resolve_device(job.compute.device)
    resolved = {
        "device": str(device),
        "precision": resolve_precision(job.settings["precision"], device),
        "threads": torch.get_num_threads(),
        "images": history.images,
        "images_per_second": round(history.images_per_second, 1),
        "data_share": round(history.data_share, 4),
        "warnings": trained.warnings,
    }
    return Outcome(rows=sum(p.numel() for p in network.parameters()), meta=resolved)


def write_codes(job: Job, method: Method, feed: ImageFeed, *, round: int) -> None:
    """Write the labels that a trained method gives all images beside its checkpoint: codes.parquet.

    Args:
        job: of the stage.
        method: trained, on the device; one whose configuration says that it has `codes`.
        feed: of the training; its images are labelled.
        round: which labelling it is: epochs trained.
    """
    device = resolve_device(job.compute.device)

    def sweep() -> Iterator[Batch]:
        for batch in feed.sweep():
            if job.interrupted():
                raise Interrupted("stopped while labelling")
            yield replace(batch, images=batch.images.to(device), index=batch.index.to(device))

    method.eval()
    with torch.no_grad():
        given = method.codes(sweep)
    cluster = np.zeros((0, 0), np.int64) if given is None else given.cpu().numpy()
    require(cluster.shape[1:] == feed.index.shape, f"{type(method).__name__}.codes gave no (heads, {len(feed.index)}) labels")  # fmt: skip
    head, position = np.nonzero(cluster >= 0)  # an image that was never labelled has no row
    columns = {
        "round": np.full(len(head), round),
        "index": feed.index[position],
        "head": head,
        "cluster": cluster[head, position],
    }
    write_table(job.out / "codes.parquet", columns, CODES)


def class_names(job: Job) -> list[str] | None:
    """The classes of the manifest, where the job's network tells them apart."""
    return job.meta("manifest")["classes"] if "labels" in job.request.inputs or job.request.stage == "distill" else None


def load(folder: Path) -> Network:
    """The network of a checkpoint, on the CPU."""
    description = read_description(folder)
    description.pop("class_names", None)
    network = Network.from_description(description)
    tensors = {name: torch.from_numpy(array) for name, array in read_arrays(folder / "model.safetensors").items()}
    network.load_state_dict(tensors)
    return network


def manifest_rows(folder: Path, splits: tuple[str, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Index and label (-1 where there is none) of the manifest's rows in the given splits, in order of index."""
    table = read_table(folder / "images.parquet", MANIFEST)
    index, label = column(table, "index"), column(table, "label").astype(np.int64)
    wanted = np.isin(column(table, "split").astype(str), splits)
    order = np.argsort(index[wanted])
    return index[wanted][order], label[wanted][order]


def label_rows(folder: Path, role: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Index and label of the drawn labels of a role, train or validation."""
    table = read_table(folder / "labels.parquet", LABELS)
    wanted = column(table, "role").astype(str) == role
    return column(table, "index")[wanted], column(table, "label")[wanted].astype(np.int64)


def order_key(job: Job, stage: str) -> int:
    """What the order of batches is drawn by."""
    return key(job.seed, stage, "order")
