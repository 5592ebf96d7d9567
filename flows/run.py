"""A run: its folder, its record, its children, and how each stage becomes a Prefect task.

One truth: the store. A stage whose artifact is there ends in a state named Cached without any record of Prefect's; one
whose files are gone or damaged is made again, whatever Prefect remembers.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

import yaml

from data.errors import Interrupted
from data.store import Store, write_json
from data.types import Artifact
from tasks.config import Config
from tasks.recall import Recall
from tasks.stage import Request
from tasks.workers import Workers

if TYPE_CHECKING:
    from flows.pin import Decision


class Watcher(Protocol):
    """Somebody who looks on: the terminal, the run's page in Prefect."""

    def begin(self, run: Run) -> None:
        """A run starts."""

    def event(self, label: str, event: dict[str, Any]) -> None:
        """Something happened in a stage; called from the thread that waits for it.

        `event["event"]` is skipped (because: this run does without the stage); started; running (its turn has come: it is not cached); progress (done, total, and what the
        stage knows of epoch, epochs, rate in images/s, eta in s, loss, learning_rate, data_share); log (text); figure
        (key, title, png in base64); made (stage, kind, fingerprint, path, cached, seconds, rows, computed_in, warnings);
        or failed (text). Of the rerun as a whole: decided (pinned, because, earlier, figures).
        """

    def end(self, run: Run, result: dict[str, Any] | None, error: BaseException | None) -> None:
        """The run is over: with a result, or with an error."""


WATCHERS: list[Watcher] = []
"""Who looks on at runs of this process besides Prefect's page: the command line puts its display here."""


@dataclass(frozen=True)
class Origin:
    """Where a run comes from.

    Attributes:
        deployment: its name on Prefect's server, or None.
        scheduled: the time it was to begin, ISO 8601.
    """

    deployment: str | None
    scheduled: str | None


class Run:
    """One execution of a flow. A context manager: however it ends, the record says so and no child is left.

    Args:
        config: resolved.
        name: of the run; made unique by a number if taken.
        watchers: get every event, from whichever thread.
        origin: the deployment it is a run of; None: somebody called.
    """

    def __init__(self, config: Config, name: str, watchers: Sequence[Watcher], origin: Origin | None = None) -> None:
        self.config, self.store, self._watchers = config, Store(config.store), tuple(watchers)
        self.result: dict[str, Any] | None = None
        self.folder = _new_folder(self.store.root / "runs", name)
        self.name = self.folder.name
        self.log = self.folder / "log.txt"
        self.log.touch()
        self.workers = Workers(self.store, config.compute, self.log)
        self._lock = threading.Lock()
        self._skipped: dict[str, str] = {}
        self._warnings: dict[str, list[str]] = {}
        self._record: dict[str, Any] = {
            "name": self.name,
            "started": _now(),
            "finished": None,
            "status": "running",
            "deployment": origin.deployment if origin else None,
            "scheduled": origin.scheduled if origin else None,
            "pinned": False,
            "rerun": None,
            "config": config.model_dump(),
            "stages": [],
        }
        (self.folder / "config.yaml").write_text(to_yaml(config))
        self._save()
        for watcher in self._watchers:
            watcher.begin(self)

    def _watch(self, label: str, event: dict[str, Any]) -> None:
        for watcher in self._watchers:
            watcher.event(label, event)

    def skip(self, label: str, because: str) -> None:
        """Say that this run does without a stage.

        Args:
            label: the stage's name in runs that have it.
            because: the setting that makes it needless.
        """
        with self._lock:
            self._skipped[label] = because
        self._watch(label, {"event": "skipped", "because": because})

    def decide(self, decision: Decision) -> None:
        """Enter what a rerun keeps of an earlier run."""
        with self._lock:
            self._record |= {"pinned": decision.pinned, "rerun": decision.as_json()}
            self._save()
        self._watch("rerun", {"event": "decided", **decision.as_json()})

    def choose_k(self, k: int) -> None:
        """Enter the number of clusters that a person chose in review."""
        self.config = self.config.model_copy(update={"cluster": self.config.cluster.model_copy(update={"k": k})})
        with self._lock:
            self._record["config"] = self.config.model_dump()
            self._save()
        (self.folder / "config.yaml").write_text(to_yaml(self.config))

    def make(self, label: str, request: Request | Artifact) -> tuple[Artifact, bool]:
        """Make a stage's artifact, or find it made, and enter it into the record.

        Args:
            label: the stage's name in this run.
            request: what is asked for, or an artifact that is there.

        Returns:
            The artifact, and whether it was there already.
        """
        began = [time.monotonic()]

        def listen(event: dict[str, Any]) -> None:
            if event["event"] == "running":  # waiting for its turn is not its time
                began[0] = time.monotonic()
            self._watch(label, event)

        self._watch(label, {"event": "started"})
        try:
            if isinstance(request, Artifact):
                made, cached = request, True
            else:
                request = request.model_copy(update={"outside": request.outside | {"run": self._so_far()}})
                # What is named by what is found outside is known beforehand only where nothing can have changed there.
                recall = Recall(self.store, request) if request.by_content else None
                wanted = request.artifact(self.store) if recall is None else recall.made()
                if wanted is not None and self.store.has(wanted):
                    made, cached = wanted, True
                else:
                    made, cached = self.workers.make(request, label, listen)
                if recall is not None:
                    recall.keep(made)
        except BaseException as error:
            self._watch(label, {"event": "failed", "text": str(error)})
            raise
        seconds = time.monotonic() - began[0]
        meta = self.store.meta(made)
        warnings = meta.get("warnings", [])
        row = {
            "stage": label,
            "kind": made.kind,
            "fingerprint": made.fingerprint,
            "path": made.path,
            "cached": cached,
            "seconds": round(seconds, 3),
            "rows": meta["rows"],
            "computed_in": meta["seconds"],
        }
        with self._lock:
            self._record["stages"].append(row)
            self._warnings[label] = warnings
            self._save()
        self._watch(label, {"event": "made", **row, "warnings": warnings})
        return made, cached

    def _so_far(self) -> dict[str, Any]:
        with self._lock:
            return {"name": self.name, "started": self._record["started"], "stages": list(self._record["stages"])}

    @property
    def record(self) -> dict[str, Any]:
        """run.json so far."""
        with self._lock:
            return {**self._record, "stages": [dict(row) for row in self._record["stages"]]}

    @property
    def stages(self) -> list[dict[str, Any]]:
        """The record's stages so far."""
        with self._lock:
            return [dict(row) for row in self._record["stages"]]

    def finish(self, made: dict[str, Artifact]) -> dict[str, Any]:
        """Copy scores and report into the run's folder and say what came out.

        Args:
            made: label -> artifact, all stages; `scores` among them, and `report` if there is one.

        Returns:
            JSON values: run, folder, report (a path or None), scores (rows), headline, stages, pinned, not_needed (stage
            -> the setting that makes it needless), warnings.
        """
        from data.tables import read_table

        copies = {
            label: f"{label}.{ending}" for label, ending in (("scores", "parquet"), ("report", "html")) if label in made
        }
        for label, name in copies.items():
            shutil.copyfile(self.store.folder(made[label]) / name, self.folder / name)
        rows = read_table(self.folder / "scores.parquet").to_pylist()
        self.result = {
            "run": self.name,
            "folder": str(self.folder),
            "report": str(self.folder / "report.html") if "report" in made else None,
            "headline": headline(rows),
            "scores": rows,
            "stages": self.stages,
            "pinned": self._record["pinned"],
            "not_needed": dict(self._skipped),
            "warnings": [text for row in self.stages for text in self._warnings[row["stage"]]],
        }
        return self.result

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.workers.close()
        stopped = error is not None and not isinstance(error, Exception)
        status = "done" if error is None else "cancelled" if stopped else "failed"
        with self._lock:
            self._record |= {"status": status, "finished": _now()}
            self._save()
        for watcher in self._watchers:
            watcher.end(self, self.result, error)

    def _save(self) -> None:
        write_json(self.folder / "run.json", self._record)


def headline(rows: list[dict[str, Any]]) -> dict[str, float]:
    """What a reader wants first: test accuracy of the final student, of the same student from scratch, the difference.

    Args:
        rows: of a scores table.

    Returns:
        student, scratch and gain as far as measured, between 0 and 1.
    """
    few = {row["model"]: row["value"] for row in rows if (row["evaluation"], row["metric"]) == ("few-label", "top1")}
    found = {name: few[name] for name in ("student", "scratch") if name in few}
    return found | ({"gain": found["student"] - found["scratch"]} if len(found) == 2 else {})


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _new_folder(runs: Path, name: str) -> Path:
    number = 1
    while True:
        folder = runs / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder


def to_yaml(config: Config) -> str:
    """A configuration as YAML that `run` accepts."""
    text: str = yaml.safe_dump(json.loads(config.model_dump_json()), sort_keys=False, allow_unicode=True, width=120)
    return text


def stopped(error: BaseException) -> bool:
    """Whether an error means that somebody asked to stop."""
    return isinstance(error, Interrupted | KeyboardInterrupt) or type(error).__name__ == "TerminationSignal"
