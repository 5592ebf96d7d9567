"""The parent's side of the child processes: it starts them, sends them requests, and stops them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import data.errors
from data.errors import DamagedError, Interrupted, PipelineError, StageError, UserError
from data.processes import KEPT_MEMORY, environment
from data.secrets import known
from data.store import Store
from data.types import Artifact
from tasks.child import GRACE
from tasks.config import Compute
from tasks.stage import Process, Request

Listener = Callable[[dict[str, Any]], None]


class Workers:
    """A context manager for the children of one run: one per kind of process, started on first use.

    Stages run one at a time. Two trainings at once would take longer on the same cores or the same GPU.

    Args:
        store: where artifacts go.
        compute: device, precision, workers.
        log: file that gets everything the children print.

    Attributes:
        slot: returns what is held while a stage is made, such as a GPU's slot. It is called with a function
            that says whether to stop.
    """

    def __init__(self, store: Store, compute: Compute, log: Path) -> None:
        self.store, self.compute, self.log = store, compute, log
        self._children: dict[Process, subprocess.Popen[str]] = {}
        self._turn = threading.Lock()
        self._stopping = False
        self.slot: Callable[[Callable[[], bool]], AbstractContextManager[None]] = lambda stopping: (
            nullcontext()
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def make(self, request: Request, label: str, listen: Listener) -> tuple[Artifact, bool]:
        """Let the child for the request's kind of process make an artifact.

        Args:
            request: what to make.
            label: the stage's name in this run, for messages.
            listen: gets every progress and log event.

        Returns:
            The artifact, and whether it already existed.

        Raises:
            UserError: the build raised it.
            DamagedError: the stage reads an artifact that is damaged.
            StageError: the build or its process failed. The message names the stage, the cause and the log.
            Interrupted: somebody asked to stop.
        """
        with self._turn:
            if self._stopping:
                raise Interrupted("stopped")
            with self.slot(lambda: self._stopping):
                listen({"event": "running"})
                child = self._child(request.process)
                assert child.stdin is not None
                assert child.stdout is not None
                message = {
                    "store": str(self.store.root),
                    "compute": self.compute.model_dump(),
                    "request": request.model_dump(),
                    "secrets": known(),
                    "checked": self.store.checked.all(),
                }
                try:
                    child.stdin.write(json.dumps(message) + "\n")
                    child.stdin.flush()
                except BrokenPipeError:
                    pass  # the child died: `_await` finds out how
                return self._await(child, child.stdout, request, label, listen)

    def _await(
        self, child: subprocess.Popen[str], events: IO[str], request: Request, label: str, listen: Listener
    ) -> tuple[Artifact, bool]:
        for line in events:
            event = json.loads(line)
            self.store.checked.add(event.pop("checked", []))
            match event["event"]:
                case "made":
                    return Artifact.model_validate(event["artifact"]), event["cached"]
                case "failed":
                    raise self._error(event, label)
                case "damaged input":
                    artifact = Artifact.model_validate(event["artifact"])
                    raise DamagedError(self.store.root, artifact, event["file"], event["reason"])
                case "interrupted":
                    raise Interrupted(f"stage {label} was stopped; what it had done is kept in the store")
                case _:
                    listen(event)
        del self._children[request.process]
        status = child.wait()
        _close(child)
        if self._stopping:
            raise Interrupted(f"stage {label} was stopped; its last checkpoint is kept in the store")
        how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        hint = " (out of memory?)" if status == -signal.SIGKILL else ""
        raise StageError(
            f"stage {label}: its process ended by {how}{hint}; log: {self.log}; "
            "run again to resume from its last checkpoint"
        )

    def _error(self, event: dict[str, Any], label: str) -> PipelineError:
        if event["user"]:
            kind: type[UserError] = getattr(data.errors, event["kind"], UserError)
            return kind(event["text"])
        return StageError(f"stage {label}: {event['text']}; log: {self.log}")

    def _child(self, process: Process) -> subprocess.Popen[str]:
        child = self._children.get(process)
        if child is None:
            with self.log.open("ab") as log:
                child = subprocess.Popen(
                    # UTF-8 whatever the locale, so that every file name can be opened
                    [sys.executable, "-X", "utf8", "-u", "-m", "tasks.child", process],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    env=KEPT_MEMORY | environment(),
                    start_new_session=True,  # Ctrl-C and a worker's SIGTERM reach only us
                )
            self._children[process] = child
        return child

    def stop(self) -> None:
        """Ask the children to stop, give them time to save, then kill them.

        Any thread may call this, and may call it twice.
        """
        self._stopping = True
        children = list(self._children.values())
        for child in children:
            child.send_signal(signal.SIGTERM)  # does nothing if the process has ended
            with suppress(OSError, ValueError):
                child.stdin.close()  # type: ignore[union-attr]  # a pipe, as asked for in _child
        for child in children:
            try:
                child.wait(GRACE)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def close(self) -> None:
        """Call `stop`, wait for threads that are still reading, and close the pipes."""
        self.stop()
        with self._turn:
            for child in self._children.values():
                _close(child)


def _close(child: subprocess.Popen[str]) -> None:
    """Close our ends of the pipes of a child that ended."""
    for pipe in (child.stdin, child.stdout):
        with suppress(OSError):
            if pipe is not None:
                pipe.close()
