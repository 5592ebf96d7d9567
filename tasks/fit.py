"""Shared by the training stages: train with a resumable state, then write the checkpoint.

This module imports torch and runs in the `train` process, so stage files import it inside `build`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.checkpoints import write_checkpoint
from data.errors import CollapsedError, Interrupted
from data.files import intact, sealing
from data.reading import recorded_in
from data.schemas import CODES
from data.tables import write_table
from models.configs.shared import Optimization
from models.device import resolve_device, resolve_precision
from models.engine import train
from models.method import Batch, Method
from models.network import Network
from models.progress import History, TrainingReport
from models.schedules import SCHEDULES
from tasks.feed import ImageFeed
from tasks.job import Job
from tasks.stage import Outcome, require


@dataclass(frozen=True)
class Trained:
    """What a training produces besides weights.

    Attributes:
        history: loss curve and speed.
        warnings: sentences for the terminal, the run's page and the report.
    """

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
    """Train a method. If the job has a saved state, resume from it.

    Args:
        job: the stage's job.
        method: the method to train.
        feed: gives the batches.
        config: settings of the optimizer; this function reads warm-up and schedule.
        epochs: passes over the feed.
        stage: key of the random draws, besides the seed. Each training of a run needs a different one.
        part: file name of the state, for a stage that trains more than once.
        stop_on_collapse: end the training if all outputs become alike.

    Raises:
        CollapsedError: all outputs became alike, and `stop_on_collapse` is set.
        Interrupted: somebody asked the run to stop.
    """
    device = resolve_device(job.compute.device)
    path = job.state / f"{part}.pt"
    resume = _saved(job, path)
    collapses: list[tuple[int, str]] = []
    if resume is not None:
        job.log(f"resuming at step {resume['step']} of {resume['steps']}")
        collapses += resume.pop("collapses", [])

    def collapsed(epoch: int, measure: str) -> None:
        collapses.append((epoch, measure))
        if stop_on_collapse:
            raise CollapsedError(
                f"{_collapse(stage, collapses, epochs)}. Try a lower learning_rate, a larger batch_size, "
                "or another method"
            )
        if len(collapses) == 1:
            job.log(f"warning: {_collapse(stage, collapses, epochs)}")

    def save(state: dict[str, Any]) -> None:
        with sealing(path) as file:
            torch.save(state | {"collapses": collapses}, file)

    history = train(
        method,
        feed,
        epochs=epochs,
        seed=job.seed,
        stage=stage,
        schedule=partial(SCHEDULES[config.schedule], warmup=config.warmup),
        device=device,
        precision=resolve_precision(job.settings["precision"], device, method),
        sweep=feed.sweep,
        resume=resume,
        save=save,
        report=lambda now: _tell(job, now),
        collapsed=collapsed,
        interrupted=job.interrupted,
    )
    return Trained(history, [_collapse(stage, collapses, epochs)] if collapses else [])


def _saved(job: Job, path: Path) -> dict[str, Any] | None:
    """The state that an earlier attempt saved; None if there is none, or it is not what was written."""
    if not path.exists():
        return None
    state: dict[str, Any] | None = None
    if intact(path):
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # from before states had a hash: torch raises nearly anything
            job.log(f"{path} can't be read: {error}")
    if state is None:
        text = f"{path} has other content than was written; the training starts from its beginning"
        job.tell({"event": "damaged", "text": text})
        path.unlink()
    return state


def _collapse(stage: str, found: list[tuple[int, str]], epochs: int) -> str:
    """Describe in one sentence after which epochs all outputs were alike. Epochs in `found` count from 0."""
    first, last = found[0][0] + 1, found[-1][0] + 1
    when = f"after epoch {last}" if first == last else f"after {len(found)} epochs, from {first} to {last}"
    return f"{stage}: all outputs were alike {when} of {epochs}: {found[-1][1]}"


def train_and_publish(
    job: Job,
    method: Method,
    feed: ImageFeed,
    config: Optimization,
    *,
    epochs: int,
    stage: str,
    stop_on_collapse: bool = False,
) -> Outcome:
    """Call `fit`, then write the checkpoint."""
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


def publish(job: Job, network: Network, trained: Trained, **about: Any) -> Outcome:
    """Write a network as the job's checkpoint, with device, speed and warnings in its meta.json.

    Args:
        job: the stage's job.
        network: the network.
        trained: its training.
        **about: more keys for model.json, among `models.saved.ABOUT`.
    """
    history = trained.history
    arrays = {name: tensor.detach().cpu().float().numpy() for name, tensor in network.state_dict().items()}
    reading = recorded_in(job.meta("manifest")).recorded()
    write_checkpoint(
        job.out,
        arrays,
        {**network.description(), "class_names": class_names(job), **about, **reading},
        history.rows,
    )
    device = resolve_device(job.compute.device)
    resolved = {
        "device": str(device),
        "precision": resolve_precision(job.settings["precision"], device, network),
        "threads": torch.get_num_threads(),
        "images": history.images,
        "images_per_second": round(history.images_per_second, 1),
        "data_share": round(history.data_share, 4),
        "warnings": trained.warnings,
    }
    return Outcome(rows=sum(p.numel() for p in network.parameters()), meta=resolved)


def write_codes(job: Job, method: Method, feed: ImageFeed, *, round: int) -> None:
    """Write codes.parquet next to the checkpoint: the labels that a trained method gives to all images.

    Args:
        job: the stage's job.
        method: the trained method, on the device. Its configuration declares `codes`.
        feed: the feed of the training; its images get labels.
        round: number of epochs trained; goes into the column `round`.

    Raises:
        ArtifactError: the labels have the wrong shape.
        Interrupted: somebody asked the run to stop.
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
    require(
        cluster.shape[1:] == feed.index.shape,
        f"{type(method).__name__}.codes returned labels of shape {cluster.shape}, "
        f"not (heads, {len(feed.index)})",
    )
    head, position = np.nonzero(cluster >= 0)  # images without a label get no row
    columns = {
        "round": np.full(len(head), round),
        "index": feed.index[position],
        "head": head,
        "cluster": cluster[head, position],
    }
    write_table(job.out / "codes.parquet", columns, CODES)


def class_names(job: Job) -> list[str] | None:
    """The manifest's class names if the job's network classifies them, else None."""
    return (
        job.meta("manifest")["classes"]
        if "labels" in job.request.inputs or job.request.stage == "distill"
        else None
    )
