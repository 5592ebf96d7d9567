"""What the training stages share: from a job to a published checkpoint, by way of a resumable state.

Imports torch and belongs to the `train` process; stage files import it inside `build`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data.checkpoints import read_arrays, read_description, write_checkpoint
from data.draws import key
from data.images import Images
from data.order import Order
from data.schemas import LABELS, MANIFEST
from data.tables import column, read_table
from models.engine import TrainingReport, resolve_device, resolve_precision, train
from models.method import Batch, Method
from models.network import Network
from tasks.stage import Job, Outcome


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

    def sweep(self, batch_size: int = 512) -> Any:
        """All images once, in order of position."""
        for start in range(0, len(self.index), batch_size):
            index = self.index[start : start + batch_size]
            yield Batch(images=torch.from_numpy(self.images.read(index)), index=torch.from_numpy(index))


def train_and_publish(job: Job, method: Method, feed: ImageFeed, *, epochs: int, warmup: float, stage: str) -> Outcome:
    """Train, going on from the draft's state if there is one, and write the checkpoint.

    Args:
        job: of the stage.
        method: what to train; its `network` is published.
        feed: its batches.
        epochs: passes over the feed.
        warmup: share of the steps with a rising rate.
        stage: what draws are keyed by, besides the seed: trainings of one run must not share them.
    """
    device = resolve_device(job.compute.device)
    precision = resolve_precision(job.settings["precision"], device)
    path = job.state / "training.pt"
    resume = torch.load(path, map_location="cpu", weights_only=True) if path.exists() else None
    if resume is not None:
        job.log(f"going on from step {resume['step']}")

    def save(state: dict[str, Any]) -> None:
        temporary = path.with_suffix(".new")
        torch.save(state, temporary)
        os.replace(temporary, path)

    history = train(
        method,
        feed,
        epochs=epochs,
        seed=job.seed,
        stage=stage,
        warmup=warmup,
        device=device,
        precision=precision,
        resume=resume,
        save=save,
        report=lambda now: _tell(job, now),
        interrupted=job.interrupted,
    )
    publish(job, method.network, history.rows)
    parameters = sum(p.numel() for p in method.network.parameters())
    resolved = {
        "device": str(device),
        "precision": precision,
        "threads": torch.get_num_threads(),
        "images_per_second": round(history.images_per_second, 1),
        "data_share": round(history.data_share, 4),
        "steps": history.steps,
    }
    return Outcome(rows=parameters, meta=resolved)


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


def publish(job: Job, network: Network, log: list[tuple[int, float, str, float]]) -> None:
    """Write a network as the job's checkpoint."""
    arrays = {name: tensor.detach().cpu().float().numpy() for name, tensor in network.state_dict().items()}
    write_checkpoint(job.out, arrays, network.description(), log)


def load(folder: Path) -> Network:
    """The network of a checkpoint, on the CPU."""
    network = Network.from_description(read_description(folder))
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
