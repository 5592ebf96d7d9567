"""What a training reports: its log, its clock, its progress while it runs, and its history afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from data.checkpoints import LogRow

State = dict[str, Any]
"""Everything that a resume needs: tensors, numbers, and lists and dicts of them.

`torch.load(weights_only=True)` accepts it. `method` and `optimizers` are the `state_dict`s of the running
training and share memory with it. Write them out before the training continues.
"""

LOG_ROWS = 2000
"""The log has at most about this many rows per name. A longer training logs means over windows of steps."""
REPORT_SECONDS = 0.5


@dataclass(frozen=True)
class TrainingReport:
    """The progress of a training, for displays.

    Attributes:
        epoch: the current epoch, counted from 0.
        epochs: number of epochs.
        step: updates done.
        steps: number of updates.
        images_per_second: since the last report.
        eta: estimated seconds left, at the mean pace of this process.
        loss: of the last step.
        learning_rate: of the last step.
        data_share: share of the time since the last report spent on waiting for batches and making views, 0
            to 1.
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
    """What a training leaves behind besides weights, summed over all processes that worked on it.

    Attributes:
        rows: the log.
        steps: updates done.
        images: images seen.
        seconds: time spent training.
        data_seconds: the part of `seconds` spent on waiting for batches and making views.
    """

    rows: list[LogRow]
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
        """Share of the time spent on waiting for batches and making views, 0 to 1."""
        return min(1.0, self.data_seconds / max(self.seconds, 1e-9))


class Watch:
    """Calls `report` at most every `REPORT_SECONDS`, and after the last step."""

    def __init__(
        self,
        report: Callable[[TrainingReport], None] | None,
        clock: Clock,
        steps: int,
        epochs: int,
        step: int,
    ) -> None:
        self._report, self._clock = report, clock
        self._steps, self._epochs, self._first = steps, epochs, step
        self._started = self._reported = time.monotonic()
        self._images, self._data_seconds = clock.images, clock.data_seconds

    def tick(self, step: int, epoch: int, values: dict[str, float]) -> None:
        """Report if it is time.

        Args:
            step: updates done.
            epoch: the current epoch, counted from 0.
            values: what the step logs. The loss comes first; `learning_rate` is among them.
        """
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
class Log:
    """The rows of the log, and sums over the current window and the current epoch.

    Attributes:
        steps: updates of the whole training.
        steps_per_epoch: updates in each epoch.
        rows: the log so far.
        sums: sum and count of each name since the last row.
        of_epoch: sum and count of each name since the epoch began.
    """

    steps: int
    steps_per_epoch: int
    rows: list[LogRow] = field(default_factory=list)
    sums: dict[str, tuple[float, int]] = field(default_factory=dict)
    of_epoch: dict[str, tuple[float, int]] = field(default_factory=dict)

    def add(self, step: int, values: dict[str, float]) -> None:
        """Add the values of one step, and write rows if its window is over. `step` counts from 1."""
        if (step - 1) % self.steps_per_epoch == 0:
            self.of_epoch = {}
        for sums in (self.sums, self.of_epoch):
            for name, value in values.items():
                total, count = sums.get(name, (0.0, 0))
                sums[name] = (total + value, count + 1)
        window = -(-self.steps // LOG_ROWS)
        if step % window == 0 or step == self.steps:
            epoch = step / self.steps_per_epoch
            self.rows += [
                LogRow(step, epoch, name, total / count) for name, (total, count) in self.sums.items()
            ]
            self.sums = {}

    def means(self) -> dict[str, float]:
        """Mean of each name over the current epoch, or over the one that has just ended."""
        return {name: total / count for name, (total, count) in self.of_epoch.items()}

    def state(self) -> State:
        """What `restore` needs."""
        return {
            "rows": [list(row) for row in self.rows],
            "sums": {name: list(pair) for name, pair in self.sums.items()},
            "of_epoch": {name: list(pair) for name, pair in self.of_epoch.items()},
        }

    def restore(self, state: State) -> None:
        """Continue from what `state` returned."""
        self.rows = [LogRow(*row) for row in state["rows"]]
        self.sums = {name: (total, count) for name, (total, count) in state["sums"].items()}
        self.of_epoch = {name: (total, count) for name, (total, count) in state["of_epoch"].items()}


class Clock:
    """Seconds spent on a training, and how many of them on data: waiting for the feed and making views.

    On CUDA, views are made asynchronously. Events on the stream time them. They are read after the step's own
    synchronisation.

    Attributes:
        images: images seen.
        seconds: time spent training.
        data_seconds: the part of `seconds` spent on data.
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
        """Count what happens inside as waiting for the feed."""
        began = time.perf_counter()
        yield
        self.data_seconds += time.perf_counter() - began

    @contextmanager
    def preparing(self) -> Iterator[None]:
        """Count what happens inside as making views."""
        if not self._events:
            with self.waiting():
                yield
            return
        self._events[0].record()
        yield
        self._events[1].record()

    def tick(self, images: int) -> None:
        """Count one finished step.

        Args:
            images: number of images in its batch.
        """
        if self._events:
            self.data_seconds += self._events[0].elapsed_time(self._events[1]) / 1000
        now = time.perf_counter()
        self.seconds += now - self._last
        self._last = now
        self.images += images
