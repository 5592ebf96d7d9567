"""The one training loop. It takes a method, batches and callables. It knows no method, path or flow.

Each step first sets the learning rate. Then, for each loss that the method's generator yields, it runs
backward, checks that loss and gradients are finite, calls `before_update`, lets the optimizer step, and calls
`after_update`.

What each method does in which hook is in docs/decisions/0004-engine-hooks.md.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import Optimizer

from data import draws
from data.errors import ArtifactError, DivergedError, Interrupted
from models.device import Precision
from models.method import Batch, Loss, Method, Progress, Sweep
from models.network import Network
from models.optim import decay_by_depth
from models.prefetch import prefetch
from models.progress import Clock, History, Log, State, TrainingReport, Watch

Schedule = Callable[[int, int], float]
"""(step, steps) -> factor on the peak rates."""


class Feed(Protocol):
    """Where batches come from. A single extra thread calls `batch`, and never during a sweep."""

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches in an epoch, at least 1."""

    def batch(self, epoch: int, step: int) -> Batch:
        """The batch of a step, in CPU tensors. It depends only on the epoch and the step within the epoch."""


def train(
    method: Method,
    feed: Feed,
    *,
    epochs: int,
    seed: int,
    stage: str,
    schedule: Schedule,
    device: torch.device,
    precision: Precision,
    sweep: Sweep | None = None,
    resume: State | None = None,
    save: Callable[[State], None] | None = None,
    save_every: float = 30.0,
    report: Callable[[TrainingReport], None] | None = None,
    collapsed: Callable[[int, str], None] = lambda epoch, measure: None,
    interrupted: Callable[[], bool] = lambda: False,
) -> History:
    """Train `method` in place. Afterwards it is on `device`, with its convolutions in channels-last layout.

    A training can stop at any step and resume from any saved state. On a CPU it then ends bit for bit like an
    undisturbed one. Order and draws are functions of (seed, stage, step, index). Each step seeds torch's
    global generator with (seed, stage, step). Everything else is in the state. After the call, the global
    generator is in the same state as before.

    Args:
        method: what to train. Networks that it keeps outside `state_dict` must already be on `device`.
        feed: the batches.
        epochs: passes over the feed.
        seed: the stage's seed.
        stage: the stage's name, for draws and messages.
        schedule: factor on the `peak` rate of each parameter group (on its initial `lr` if it has no `peak`).
        device: where to compute.
        precision: fp32, or bf16 by autocast around the losses. Weights and views stay fp32.
        sweep: all images once, for methods that relabel in `before_epoch`.
        resume: a state that `save` received earlier.
        save: called with the state between steps, every `save_every` seconds and before stopping.
        save_every: seconds.
        report: called at most every 0.5 s, and after the last step.
        collapsed: called with the epoch and the measure if the method finds after an epoch that all its
            outputs are alike. It may raise.
        interrupted: says whether to stop. Called after every step and every batch of a sweep.

    Raises:
        DivergedError: a loss or gradient is not finite. That update has not changed the weights.
        Interrupted: `interrupted` returned True. The state is saved first, except during a sweep. Then the
            last saved state counts.
        ArtifactError: `resume` belongs to a training of another length.
    """
    steps_per_epoch = feed.steps_per_epoch
    steps = epochs * steps_per_epoch
    method.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # no overload takes both
    optimizers = method.optimizers()
    if method.rate_decay < 1:
        networks = [module for module in method.modules() if isinstance(module, Network)]
        depths = {at: depth for each in networks for at, depth in each.backbone.depths().items()}
        for optimizer in optimizers.values():
            decay_by_depth(optimizer, depths, method.rate_decay)
    for group in _groups(optimizers):
        group.setdefault("peak", group["lr"])
    log = Log(steps, steps_per_epoch)
    clock = Clock(device)
    step = 0
    if resume is not None:
        step = _restore(resume, method, optimizers, log, clock, steps, stage)

    def state() -> State:
        return {
            "step": step,
            "steps": steps,
            "method": method.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in optimizers.items()},
            "log": log.state(),
            "clock": [clock.images, clock.seconds, clock.data_seconds],
        }

    def load(epoch: int, step: int) -> tuple[Batch, NDArray[np.int64]]:
        batch = feed.batch(epoch, step)
        index = batch.index.numpy()
        return (_pinned(batch) if device.type == "cuda" else batch), index

    def swept() -> Iterator[Batch]:
        if sweep is None:
            raise ValueError(
                f"{stage}: the method asks for a sweep over all images, but train() was given none"
            )
        for batch in sweep():
            if interrupted():
                raise Interrupted(f"{stage}: stopped in the sweep before epoch {step // steps_per_epoch}")
            yield _moved(batch, device)

    watch = Watch(report, clock, steps, epochs, step)
    saved = time.monotonic()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for epoch in range(step // steps_per_epoch, epochs):
            offset = step % steps_per_epoch
            if offset == 0:
                torch.manual_seed(draws.key(seed, stage, "epoch", epoch))
                method.before_epoch(Progress(step, steps, epoch, epochs), swept)
            method.train()
            with closing(prefetch(partial(load, epoch), range(offset, steps_per_epoch))) as batches:
                for _ in range(offset, steps_per_epoch):
                    with clock.waiting():
                        batch, index = next(batches)
                    with clock.preparing():
                        batch = method.prepare(_moved(batch, device), _draws(seed, stage, step, index))
                    for group in _groups(optimizers):
                        group["lr"] = group["peak"] * schedule(step, steps)
                    torch.manual_seed(draws.key(seed, stage, step))
                    progress = Progress(step, steps, epoch, epochs)
                    values = _update(method, optimizers, batch, progress, device, precision, stage)
                    values["learning_rate"] = next(_groups(optimizers))["lr"]
                    step += 1
                    log.add(step, values)
                    clock.tick(len(index))
                    watch.tick(step, epoch, values)
                    # Judge before saving, so that a resume need not judge the finished epoch again.
                    if step % steps_per_epoch == 0 and (measure := method.collapsed(log.means())) is not None:
                        collapsed(epoch, measure)
                    stop = interrupted()
                    if save is not None and (stop or time.monotonic() - saved >= save_every):
                        save(state())
                        saved = time.monotonic()
                    if stop:
                        raise Interrupted(f"{stage}: stopped after step {step} of {steps}")
    return History(log.rows, step, clock.images, clock.seconds, clock.data_seconds)


def _update(
    method: Method,
    optimizers: dict[str, Optimizer],
    batch: Batch,
    progress: Progress,
    device: torch.device,
    precision: Precision,
    stage: str,
) -> dict[str, float]:
    """Do all updates of one step, and return what to log. Reads values from the device once per update."""
    logged: dict[str, float] = {}
    losses = method.losses(batch, progress)
    while True:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
            loss: Loss | None = next(losses, None)
        if loss is None:
            return logged
        # An adversary's loss also leaves gradients on its opponent. They must be gone before the opponent's
        # turn.
        method.zero_grad(set_to_none=True)
        loss.total.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        optimizer = optimizers[loss.optimizer]
        trained = (p for group in optimizer.param_groups for p in group["params"])
        norm = torch.nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
        suffix = "" if loss.optimizer == "main" else f"_{loss.optimizer}"
        values = {f"loss{suffix}": loss.total, f"gradient_norm{suffix}": norm, **loss.terms}
        on_device = {name: value.detach() for name, value in values.items() if isinstance(value, Tensor)}
        read = torch.stack(
            [value.to(device, torch.float32).reshape(()) for value in on_device.values()]
        ).tolist()
        total, size = read[:2]
        known = {name: value for name, value in values.items() if not isinstance(value, Tensor)}
        logged.update(dict(zip(on_device, read, strict=True)), **known)
        if not (math.isfinite(total) and math.isfinite(size)):
            raise DivergedError(
                _diverged(total, size, optimizer.param_groups[0]["lr"], progress, precision, stage)
            )
        method.before_update(progress)
        optimizer.step()
        method.after_update(progress)


def _diverged(
    total: float, norm: float, rate: float, progress: Progress, precision: Precision, stage: str
) -> str:
    last = "compute.precision fp32" if precision == "bf16" else "a larger batch_size"
    return (
        f"{stage}: training diverged at step {progress.step} of {progress.steps} (epoch {progress.epoch}): "
        f"loss {total:g}, gradient norm {norm:g}, learning rate {rate:g}. "
        f"Try, in this order: a learning_rate 3 to 10 times lower; a longer warmup; {last}"
    )


def _groups(optimizers: dict[str, Optimizer]) -> Iterator[dict[str, Any]]:
    for optimizer in optimizers.values():
        yield from optimizer.param_groups


def _draws(seed: int, stage: str, step: int, index: NDArray[np.int64]) -> draws.Draws:
    """The random draws of a step. The step replaces the epoch, and repeats of an image get other keys.

    Without this, an image that comes again within an epoch or a batch would show the same view again.
    """
    order = np.argsort(index, kind="stable")
    new = np.diff(index[order], prepend=index[order[:1]] - 1) != 0
    if not new.all():
        run = np.flatnonzero(new)
        repeat = np.empty_like(index)
        repeat[order] = np.arange(len(index)) - np.repeat(run, np.diff(run, append=len(index)))
        index = index + (repeat << 40)
    return draws.Draws(seed, stage, step, index)


def _moved(batch: Batch, device: torch.device) -> Batch:
    def to(tensor: Tensor) -> Tensor:
        return tensor.to(device, non_blocking=True)

    target = None if batch.target is None else to(batch.target)
    return replace(batch, images=to(batch.images), index=to(batch.index), target=target)


def _pinned(batch: Batch) -> Batch:
    target = None if batch.target is None else batch.target.pin_memory()
    return replace(batch, images=batch.images.pin_memory(), index=batch.index.pin_memory(), target=target)


def _restore(
    state: State,
    method: Method,
    optimizers: dict[str, Optimizer],
    log: Log,
    clock: Clock,
    steps: int,
    stage: str,
) -> int:
    if state["steps"] != steps:
        raise ArtifactError(
            f"{stage}: the saved training state is of {state['steps']} steps, this training has {steps}: "
            "remove the stage's draft and start the training again"
        )
    method.load_state_dict(state["method"])
    for name, optimizer in optimizers.items():
        optimizer.load_state_dict(state["optimizers"][name])
    log.restore(state["log"])
    clock.images, clock.seconds, clock.data_seconds = state["clock"]
    return int(state["step"])
