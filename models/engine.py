"""The one training loop. It takes a method, batches and callables; it knows no method, path or flow.

In every step: set the rate; resume the method's generator for a loss; backward; are loss and gradients finite?;
`before_update`; the optimizer steps; `after_update`; and back to the generator until it ends.
What each method does in which hook is in docs/decisions/0004-engine-hooks.md.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import Optimizer

from data import draws
from data.errors import ArtifactError, ConfigError, DivergedError, Interrupted
from models.method import Batch, Loss, Method, Progress, Sweep
from models.prefetch import prefetch

Precision = Literal["fp32", "bf16"]
State = dict[str, Any]
"""All that a resume needs: tensors, numbers, lists and dicts of them, as `torch.load(weights_only=True)` takes.

`method` and `optimizers` are their `state_dict`s and share memory with the training: write them out before returning.
"""
Schedule = Callable[[int, int], float]
"""(step, steps) -> what to multiply the peak rates by."""

LOG_ROWS = 2000
"""At most about so many rows a name in the log; longer trainings are averaged over windows of steps."""
REPORT_SECONDS = 0.5


class Feed(Protocol):
    """Where batches come from. `batch` is called from one thread of its own, never during a sweep."""

    @property
    def steps_per_epoch(self) -> int:
        """Batches an epoch, at least 1."""

    def batch(self, epoch: int, step: int) -> Batch:
        """The batch of a step, counted within the epoch: CPU tensors, a function of the two numbers only."""


class Row(NamedTuple):
    """A line of log.parquet: the mean of a value over the steps since the row before.

    Attributes:
        step: updates done when it was written, from 1.
        epoch: the same in passes.
        name: loss, gradient_norm, learning_rate or a term of the method's.
        value: the mean.
    """

    step: int
    epoch: float
    name: str
    value: float


@dataclass(frozen=True)
class TrainingReport:
    """How training goes, for whoever watches.

    Attributes:
        epoch: the one under way, from 0.
        epochs: how many there are.
        step: updates done.
        steps: how many there are.
        images_per_second: since the last report.
        eta: seconds to go, at the mean pace of this process.
        loss: of the last step.
        learning_rate: of the last step.
        data_share: share of the time since the last report that went into waiting for batches and making views, 0 to 1.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    images_per_second: float
    eta: float
    loss: float
    learning_rate: float
    data_share: float


@dataclass
class History:
    """What a training leaves behind besides weights, over all processes that worked on it.

    Attributes:
        rows: the log.
        steps: updates done.
        images: images seen.
        seconds: spent training.
        data_seconds: of these, spent waiting for batches and making views.
    """

    rows: list[Row]
    steps: int
    images: int
    seconds: float
    data_seconds: float

    @property
    def images_per_second(self) -> float:
        """Mean over the training."""
        return self.images / max(self.seconds, 1e-9)

    @property
    def data_share(self) -> float:
        """Share of the time that went into waiting for batches and making views, 0 to 1."""
        return min(1.0, self.data_seconds / max(self.seconds, 1e-9))


def resolve_device(requested: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """`auto` is CUDA where there is a device.

    Raises:
        ConfigError: CUDA is asked for and there is none.
    """
    available = torch.cuda.is_available()
    if requested == "cuda" and not available:
        raise ConfigError(
            "compute.device is cuda, but PyTorch finds no CUDA device here: set compute.device=auto or cpu, "
            "or check the driver and that PyTorch was installed with CUDA"
        )
    return torch.device("cuda" if requested != "cpu" and available else "cpu")


def resolve_precision(requested: Literal["auto", "fp32", "bf16"], device: torch.device) -> Precision:
    """`auto` is bf16 where the hardware multiplies it natively (CUDA from Ampere on, CPUs with AVX512-BF16 or AMX)."""
    if requested != "auto":
        return requested
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if native else "fp32"


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
    """Train `method` in place; it ends on `device`, its convolutions channels-last.

    A training stopped anywhere and resumed from any saved state ends as an undisturbed one does, bit for bit on CPU:
    order and draws are functions of (seed, stage, step, index), torch's global generator is seeded in each step by
    (seed, stage, step), and the rest is in the state. The global generator is left as it was found.

    Args:
        method: what to train. Networks it holds outside `state_dict` must be on `device` already.
        feed: the batches.
        epochs: passes over the feed.
        seed: the stage's seed.
        stage: the stage's name, for draws and messages.
        schedule: multiplies the `peak` rate of each parameter group (its initial `lr` where it names none).
        device: where to compute.
        precision: fp32, or bf16 by autocast around the losses; weights and views stay fp32.
        sweep: all images once, for methods that relabel in `before_epoch`.
        resume: what `save` got earlier.
        save: called with the state between steps, every `save_every` seconds and before stopping.
        save_every: seconds.
        report: called at most every 0.5 s, and after the last step.
        collapsed: told the epoch and the measure when the method finds its outputs all alike after an epoch; may raise.
        interrupted: asked after every step and every batch of a sweep.

    Raises:
        DivergedError: a loss or gradient is not finite; weights have not moved in that update.
        Interrupted: `interrupted` said so. The state is saved, unless a sweep was under way: then the last one counts.
        ArtifactError: `resume` is of a training of another length.
    """
    steps_per_epoch = feed.steps_per_epoch
    steps = epochs * steps_per_epoch
    method.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # no overload takes both
    optimizers = method.optimizers()
    for group in _groups(optimizers):
        group.setdefault("peak", group["lr"])
    log = _Log(steps, steps_per_epoch)
    clock = _Clock(device)
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
            raise ValueError(f"{stage}: the method asks for a sweep over all images, but train() was given none")
        for batch in sweep():
            if interrupted():
                raise Interrupted(f"{stage}: stopped in the sweep before epoch {step // steps_per_epoch}")
            yield _moved(batch, device)

    watch = _Watch(report, clock, steps, epochs, step)
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
                    # Before saving, so that a resume need not ask again about an epoch that is over.
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
    """All updates of one step, and what to log of them. Reads values back from the device once an update."""
    logged: dict[str, float] = {}
    losses = method.losses(batch, progress)
    while True:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
            loss: Loss | None = next(losses, None)
        if loss is None:
            return logged
        # An adversary's loss leaves gradients on its opponent too: none may survive into the opponent's turn.
        method.zero_grad(set_to_none=True)
        loss.total.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        optimizer = optimizers[loss.optimizer]
        trained = (p for group in optimizer.param_groups for p in group["params"])
        norm = torch.nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
        suffix = "" if loss.optimizer == "main" else f"_{loss.optimizer}"
        values = {f"loss{suffix}": loss.total, f"gradient_norm{suffix}": norm, **loss.terms}
        on_device = {name: value.detach() for name, value in values.items() if isinstance(value, Tensor)}
        read = torch.stack([value.to(device, torch.float32).reshape(()) for value in on_device.values()]).tolist()
        total, size = read[:2]
        known = {name: value for name, value in values.items() if not isinstance(value, Tensor)}
        logged.update(dict(zip(on_device, read, strict=True)), **known)
        if not (math.isfinite(total) and math.isfinite(size)):
            raise DivergedError(_diverged(total, size, optimizer.param_groups[0]["lr"], progress, precision, stage))
        method.before_update(progress)
        optimizer.step()
        method.after_update(progress)


def _diverged(total: float, norm: float, rate: float, progress: Progress, precision: Precision, stage: str) -> str:
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
    """Draws of a step, in which the step takes the place of the epoch, and repeats of an image get keys of their own.

    An order that returns to an image within an epoch, or within a batch, would else show it the same view again.
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
    state: State, method: Method, optimizers: dict[str, Optimizer], log: _Log, clock: _Clock, steps: int, stage: str
) -> int:
    if state["steps"] != steps:
        raise ArtifactError(
            f"{stage}: the saved training state is of {state['steps']} steps, this training has {steps}: "
            "remove the stage's draft and start it anew"
        )
    method.load_state_dict(state["method"])
    for name, optimizer in optimizers.items():
        optimizer.load_state_dict(state["optimizers"][name])
    log.restore(state["log"])
    clock.images, clock.seconds, clock.data_seconds = state["clock"]
    return int(state["step"])


class _Watch:
    """Tells whoever watches how training goes."""

    def __init__(
        self, report: Callable[[TrainingReport], None] | None, clock: _Clock, steps: int, epochs: int, step: int
    ) -> None:
        self._report, self._clock = report, clock
        self._steps, self._epochs, self._first = steps, epochs, step
        self._started = self._reported = time.monotonic()
        self._images, self._data_seconds = clock.images, clock.data_seconds

    def tick(self, step: int, epoch: int, values: dict[str, float]) -> None:
        now = time.monotonic()
        if self._report is None or (now - self._reported < REPORT_SECONDS and step < self._steps):
            return
        seconds = max(now - self._reported, 1e-9)
        self._report(
            TrainingReport(
                epoch=epoch,
                epochs=self._epochs,
                step=step,
                steps=self._steps,
                images_per_second=(self._clock.images - self._images) / seconds,
                eta=(now - self._started) / (step - self._first) * (self._steps - step),
                loss=next(iter(values.values())),
                learning_rate=values["learning_rate"],
                data_share=min(1.0, (self._clock.data_seconds - self._data_seconds) / seconds),
            )
        )
        self._reported, self._images, self._data_seconds = now, self._clock.images, self._clock.data_seconds


@dataclass
class _Log:
    """Rows, and the sums of the window under way."""

    steps: int
    steps_per_epoch: int
    rows: list[Row] = field(default_factory=list)
    sums: dict[str, tuple[float, int]] = field(default_factory=dict)
    of_epoch: dict[str, tuple[float, int]] = field(default_factory=dict)

    def add(self, step: int, values: dict[str, float]) -> None:
        if (step - 1) % self.steps_per_epoch == 0:
            self.of_epoch = {}
        for sums in (self.sums, self.of_epoch):
            for name, value in values.items():
                total, count = sums.get(name, (0.0, 0))
                sums[name] = (total + value, count + 1)
        window = -(-self.steps // LOG_ROWS)
        if step % window == 0 or step == self.steps:
            epoch = step / self.steps_per_epoch
            self.rows += [Row(step, epoch, name, total / count) for name, (total, count) in self.sums.items()]
            self.sums = {}

    def means(self) -> dict[str, float]:
        """Of the epoch under way, or just over."""
        return {name: total / count for name, (total, count) in self.of_epoch.items()}

    def state(self) -> State:
        return {
            "rows": [list(row) for row in self.rows],
            "sums": {name: list(pair) for name, pair in self.sums.items()},
            "of_epoch": {name: list(pair) for name, pair in self.of_epoch.items()},
        }

    def restore(self, state: State) -> None:
        self.rows = [Row(*row) for row in state["rows"]]
        self.sums = {name: (total, count) for name, (total, count) in state["sums"].items()}
        self.of_epoch = {name: (total, count) for name, (total, count) in state["of_epoch"].items()}


class _Clock:
    """Seconds spent, and how many of them on data: waiting for the feed, and views.

    On CUDA views are made asynchronously, so they are timed by events on the stream, read after the step's own
    synchronisation.
    """

    def __init__(self, device: torch.device) -> None:
        self.images = 0
        self.seconds = 0.0
        self.data_seconds = 0.0
        self._last = time.perf_counter()
        self._events: list[torch.cuda.Event] = []
        if device.type == "cuda":
            self._events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]  # type: ignore[no-untyped-call]

    @contextmanager
    def waiting(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.data_seconds += time.perf_counter() - began

    @contextmanager
    def preparing(self) -> Iterator[None]:
        if not self._events:
            with self.waiting():
                yield
            return
        self._events[0].record()
        yield
        self._events[1].record()

    def tick(self, images: int) -> None:
        """A step is over."""
        if self._events:
            self.data_seconds += self._events[0].elapsed_time(self._events[1]) / 1000
        now = time.perf_counter()
        self.seconds += now - self._last
        self._last = now
        self.images += images
