"""Show a run on stderr: progress bars on a terminal, plain lines in a log or a pipe."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TimeElapsedColumn,
)
from rich.table import Column, Table

from flows.phrases import amount, left, progress, status
from flows.records import DIED
from flows.run import Run
from tasks.phrases import duration

WIDTH = 30
"""Width of the column of stage names, characters."""
NARROW = 22
"""The same on a narrow terminal."""
WIDE, MIDDLE = 100, 75
"""Columns of a terminal from which names and bars have their full width, and from which there are bars."""
EVERY = 10.0
"""Seconds between two plain progress lines of one stage."""


class _Bars(Progress):
    """One line per running stage. The time left is always shown in full.

    On a narrow terminal, the line has a shorter name and bar, or no bar and no elapsed time. What a stage has
    done comes last and gets the rest of the width.
    """

    def __init__(self, console: Console) -> None:
        self._screen = console
        self._spinner, self._elapsed = SpinnerColumn(), TimeElapsedColumn()
        self._bars = {width: BarColumn(bar_width=width) for width in (16, 8)}
        super().__init__(console=console, transient=True)

    def make_tasks_table(self, tasks: Iterable[Task]) -> Table:
        """Return the lines that fit the terminal's current width."""
        columns = self._screen.width
        name, bar = (WIDTH, 16) if columns >= WIDE else (NARROW, 8)
        drawn: list[ProgressColumn] = [self._bars[bar], self._elapsed] if columns >= MIDDLE else []
        table = Table.grid(
            Column(),
            Column(no_wrap=True, overflow="ellipsis", width=min(name, columns // 3)),
            *(Column(no_wrap=True) for _ in drawn),
            Column(no_wrap=True),
            Column(no_wrap=True, overflow="ellipsis", ratio=1),
            padding=(0, 1),
            expand=True,
        )
        for task in tasks:
            table.add_row(
                self._spinner(task),
                task.description,
                *(column(task) for column in drawn),
                task.fields["left"],
                task.fields["done"],
            )
        return table


class Terminal:
    """A watcher that writes to stderr, so that stdout holds results only.

    Args:
        console: the console to write to; None: stderr.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty())
        self.run: Run | None = None
        self._lock = threading.Lock()
        self._bars: dict[str, TaskID] = {}
        self._spoken: dict[str, float] = {}
        self._progress: Progress | None = None

    def begin(self, run: Run) -> None:
        """Show the run's name and folder."""
        self.run = run
        self._print(f"[bold]{escape(run.name)}[/bold] in {escape(str(run.folder))}")
        for name in getattr(run, "died", ()):
            self.note(f"run {name} did not end: {DIED}; what it had done is in the store")
        if self.console.is_terminal:
            self._progress = _Bars(self.console)
            self._progress.start()

    def event(self, label: str, event: dict[str, Any]) -> None:
        """Show an event."""
        with self._lock:
            match event["event"]:
                case "running":
                    self._start(label)
                case "progress" if event.get("total"):
                    self._advance(label, event)
                case "log":
                    self._print(f"  {self._padded(label)} {escape(event['text'])}")
                case "understood":
                    for line in event["lines"]:
                        self._print(f"  {escape(line)}")
                case "planned":
                    for line in event["lines"]:
                        self._print(f"  plan: {escape(line)}")
                case "decided":
                    done = "kept from" if event["pinned"] else "not kept from"
                    earlier = f"networks are {done} {event['earlier']}: " if event["earlier"] else ""
                    self._print(f"  {self._padded(label)} {escape(earlier + event['because'])}")
                case "damaged":
                    self._print(f"[yellow]! {escape(event['text'])}[/yellow]")
                case "waiting":
                    self._print(f"[yellow]! {escape(event['text'])}[/yellow]")
                case "skipped":
                    self._print(
                        f"[dim]– {self._padded(label)} left out because {escape(event['because'])}[/dim]"
                    )
                case "made":
                    self._finish(label)
                    took = f"{'cached' if event['cached'] else duration(event['seconds']):<13}"
                    self._print(f"[green]✓[/green] {self._padded(label)} {took} {amount(event)}")
                    for text in event["warnings"]:
                        self._print(f"[yellow]! {escape(text)}[/yellow]")
                case "failed":
                    self._finish(label)
                    self._print(f"[red]✗[/red] {label}")

    def end(self, run: Run, result: dict[str, Any] | None, error: BaseException | None) -> None:
        """Remove the progress bars."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def note(self, text: str) -> None:
        """Print a line that does not belong to a run."""
        self._print(f"[dim]{escape(text)}[/dim]")

    @contextmanager
    def counting(self, label: str) -> Iterator[Callable[[int, int], None]]:
        """Show how far a count is that belongs to no run: a bar on a terminal, else a line now and then.

        Args:
            label: what is counted.

        Yields:
            A function that gets the number done and the number of all.
        """
        began = self._spoken[label] = time.monotonic()

        def show(done: int, total: int) -> None:
            nonlocal began
            if not done:  # the count begins
                began = time.monotonic()
            rate = done / max(time.monotonic() - began, 1e-9)
            event = {"event": "progress", "done": done, "total": total, "rate": rate}
            self.event(label, event | {"eta": (total - done) / rate if done else None})

        bars = _Bars(self.console) if self.console.is_terminal and self._progress is None else None
        if bars is None:
            yield show
            return
        with bars:
            self._progress = bars
            self._bars[label] = bars.add_task(label, total=None, left="", done="")
            try:
                yield show
            finally:
                self._finish(label)
                self._progress = None

    def _start(self, label: str) -> None:
        if self._progress is not None:
            self._bars[label] = self._progress.add_task(label, total=None, left="", done="")
        else:
            self._spoken[label] = time.monotonic()
            self._print(f"  {self._padded(label)} started")

    def _advance(self, label: str, event: dict[str, Any]) -> None:
        if self._progress is not None and label in self._bars:
            done, total = event["done"], event["total"]
            self._progress.update(
                self._bars[label], completed=done, total=total, left=left(event), done=progress(event)
            )
        elif self._progress is None and time.monotonic() - self._spoken.get(label, 0.0) >= EVERY:
            self._spoken[label] = time.monotonic()
            self._print(f"  {self._padded(label)} {status(event)}")

    def _finish(self, label: str) -> None:
        if self._progress is not None and label in self._bars:
            self._progress.remove_task(self._bars.pop(label))

    def _padded(self, label: str) -> str:
        """A stage's name as wide as the column of names."""
        narrow = self.console.is_terminal and self.console.width < MIDDLE
        return f"{label:<{NARROW if narrow else WIDTH}}"

    def _print(self, text: str) -> None:
        self.console.print(text)
