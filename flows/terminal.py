"""Show a run on stderr: progress bars on a terminal, plain lines in a log or a pipe."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column

from flows.phrases import amount, status
from flows.run import Run
from tasks.phrases import duration

WIDTH = 30
"""Width of the column of stage names, characters."""
EVERY = 10.0
"""Seconds between two plain progress lines of one stage."""


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
        if self.console.is_terminal:
            self._progress = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=16),
                TimeElapsedColumn(),
                TextColumn("{task.fields[status]}", table_column=Column(no_wrap=True, overflow="ellipsis")),
                console=self.console,
                transient=True,
            )
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
                    self._print(f"  {label:<{WIDTH}} {escape(event['text'])}")
                case "understood":
                    for line in event["lines"]:
                        self._print(f"  {escape(line)}")
                case "planned":
                    for line in event["lines"]:
                        self._print(f"  plan: {escape(line)}")
                case "decided":
                    done = "kept from" if event["pinned"] else "not kept from"
                    earlier = f"networks are {done} {event['earlier']}: " if event["earlier"] else ""
                    self._print(f"  {label:<{WIDTH}} {escape(earlier + event['because'])}")
                case "skipped":
                    self._print(f"[dim]– {label:<{WIDTH}} left out because {escape(event['because'])}[/dim]")
                case "made":
                    self._finish(label)
                    took = f"{'cached' if event['cached'] else duration(event['seconds']):<13}"
                    self._print(f"[green]✓[/green] {label:<{WIDTH}} {took} {amount(event)}")
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

    def _start(self, label: str) -> None:
        if self._progress is not None:
            self._bars[label] = self._progress.add_task(f"{label:<{WIDTH}}", total=None, status="")
        else:
            self._spoken[label] = time.monotonic()
            self._print(f"  {label:<{WIDTH}} started")

    def _advance(self, label: str, event: dict[str, Any]) -> None:
        if self._progress is not None and label in self._bars:
            done, total = event["done"], event["total"]
            self._progress.update(self._bars[label], completed=done, total=total, status=status(event))
        elif self._progress is None and time.monotonic() - self._spoken.get(label, 0.0) >= EVERY:
            self._spoken[label] = time.monotonic()
            self._print(f"  {label:<{WIDTH}} {status(event)}")

    def _finish(self, label: str) -> None:
        if self._progress is not None and label in self._bars:
            self._progress.remove_task(self._bars.pop(label))

    def _print(self, text: str) -> None:
        self.console.print(text)
