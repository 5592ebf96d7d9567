"""A run: its folder, its record and its child processes.

The store alone decides what has to be computed. If the store has a stage's artifact, the stage is cached. If
an artifact's files are missing or damaged, the stage runs again, even if Prefect thinks it is cached.

Files are hashed when a stage reads them, or when they are copied into the run's folder. If that finds damage,
the run sets the artifact aside, makes it again from its own request, and continues.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

from data.errors import DamagedError, Interrupted, PipelineError, StageError, about_storage
from data.store import Store
from data.types import Artifact
from flows.as_yaml import plain
from flows.records import SCORES, end_record, living, note_deaths, records, stage_row, write_record
from tasks.config import Config
from tasks.recall import Recall
from tasks.stage import Request
from tasks.understood import without_labels
from tasks.workers import Workers

if TYPE_CHECKING:
    from flows.pin import Decision

T = TypeVar("T")
MENDED = 3
"""How often a run makes an artifact again that is found damaged. After that, its disk is broken."""


class Watcher(Protocol):
    """Displays the events of a run, for example in the terminal or on the run's page in Prefect."""

    def begin(self, run: Run) -> None:
        """A run starts."""

    def event(self, label: str, event: dict[str, Any]) -> None:
        """Something happened in a stage. The thread that waits for the stage calls this.

        `event["event"]` is one of:

        - skipped: the run leaves out the stage. Keys: because.
        - started: the stage's inputs exist.
        - running: the stage is not cached, and its computation starts.
        - progress: keys done and total, and optionally epoch, epochs, rate (images/s), eta (s), loss,
          learning_rate, data_share.
        - log: key text.
        - figure: keys key, title, png (base64).
        - made: keys stage, kind, fingerprint, path, cached, seconds, rows, computed_in, warnings.
        - failed: key text.
        - damaged: a file of the store was damaged. Key text says which one and where it is now.
        - understood: what was understood of the images. Keys: lines.
        - planned: a part of the plan, with reasons. Keys: lines, and all of the lines so far.
        - decided: the decision about the whole rerun. Keys pinned, because, earlier, figures.
        - waiting: the run waits for a person, and its process ends. Keys text, until (ISO 8601).
        """

    def end(self, run: Run, result: dict[str, Any] | None, error: BaseException | None) -> None:
        """The run is over, with a result or with an error."""


WATCHERS: list[Watcher] = []
"""Watchers of this process's runs, in addition to Prefect's page. The command line adds its display here."""


@dataclass(frozen=True)
class Origin:
    """The deployment that started a run.

    Attributes:
        deployment: its name on Prefect's server, or None.
        scheduled: the scheduled start time, ISO 8601, or None.
    """

    deployment: str | None
    scheduled: str | None


class Waiting(BaseException):
    """The run can't go on until a person has answered. Its process ends, and the answer starts another one.

    Args:
        what: what the run waits for.
        how: how the person answers.
        until: when the run stops waiting.
        flow_run: id of the flow run on Prefect's server.
        key: name of the question on the server.
    """

    def __init__(self, what: str, how: str, until: datetime, *, flow_run: str, key: str) -> None:
        super().__init__(f"waiting for you: {what}; {how} (until {until:%Y-%m-%d %H:%M} UTC)")
        self.what, self.how, self.until, self.flow_run, self.key = what, how, until, flow_run, key

    def as_json(self) -> dict[str, str]:
        """What run.json says about it."""
        until = self.until.isoformat(timespec="seconds")
        return {"for": self.what, "how": self.how, "until": until, "flow_run": self.flow_run}


class Run:
    """One execution of a flow.

    A context manager: on exit it writes the final status into the record and stops the child processes.

    Args:
        config: the run's configuration.
        name: the run's name. If the name is taken, a number is added.
        watchers: get every event, from any thread.
        origin: the deployment that started the run; None if a person started it directly.
        continues: id of the flow run, if this process continues a run that waited for a person. The run then
            keeps its folder.

    Attributes:
        died: names of earlier runs whose record said "running", although their process was gone.

    Raises:
        StoreError: the store can't be written.
    """

    def __init__(
        self,
        config: Config,
        name: str,
        watchers: Sequence[Watcher],
        origin: Origin | None = None,
        continues: str | None = None,
    ) -> None:
        self.config, self.store, self._watchers = config, Store(config.store), tuple(watchers)
        self.result: dict[str, Any] | None = None
        with self._storing(), ExitStack() as held:
            held.enter_context(self.store.in_use())
            self.died = note_deaths(self.store)
            before = _waited(self.store, continues)
            self.folder = _new_folder(self.store.root / "runs", name) if before is None else before[0]
            held.enter_context(living(self.folder))
            self.log = self.folder / "log.txt"
            self.log.touch()
            self._held = held.pop_all()
        self.name = self.folder.name
        self.workers = Workers(self.store, config.compute, self.log)
        self._lock = threading.Lock()
        self._skipped: dict[str, str] = {}
        self._understood: list[str] = []
        self._planned: list[str] = []
        self._warnings: dict[str, list[str]] = {}
        self._damaged: list[str] = []
        self._requests: dict[Artifact, tuple[str, Request]] = {}
        self._mended: Counter[Artifact] = Counter()
        earlier: dict[str, Any] = {} if before is None else before[1]
        self._computed = {row["fingerprint"]: row for row in earlier.get("stages", ()) if not row["cached"]}
        self._record: dict[str, Any] = {
            "name": self.name,
            "started": earlier.get("started", _now()),
            "finished": None,
            "status": "running",
            "deployment": origin.deployment if origin else None,
            "scheduled": origin.scheduled if origin else None,
            "pinned": False,
            "rerun": None,
            "shipped": None,
            "plan": None,
            "waiting": None,
            "config": config.model_dump(),
            "stages": [],
        }
        with self._storing():
            (self.folder / "config.yaml").write_text(plain(config), encoding="utf-8")
            self._save()
        for watcher in self._watchers:
            watcher.begin(self)

    def _watch(self, label: str, event: dict[str, Any]) -> None:
        for watcher in self._watchers:
            watcher.event(label, event)

    def skip(self, label: str, because: str) -> None:
        """Record that this run leaves out a stage.

        Args:
            label: the stage's name in runs that have it.
            because: the reason.
        """
        with self._lock:
            self._skipped[label] = because
        self._watch(label, {"event": "skipped", "because": because})

    def understand(self, lines: list[str]) -> None:
        """Show what was understood of the images, and keep it for the run's last lines."""
        self._understood = lines
        self._watch("manifest", {"event": "understood", "lines": lines})

    def follow(self, config: Config, plan: Mapping[str, Any]) -> None:
        """Continue with a planned configuration, and record and show the plan.

        Args:
            config: the configuration with the plan's settings.
            plan: meta.json of the plan: `settings` (dotted key -> value) and `because` (one line each).
        """
        self.config = config
        with self._lock:
            self._record["plan"] = {**(self._record["plan"] or {}), **plan["settings"]}
            self._save()
            self._planned += plan["because"]
            told = list(self._planned)
        self._watch("plan", {"event": "planned", "lines": plan["because"], "all": told})

    def decide(self, decision: Decision) -> None:
        """Record what a rerun keeps from an earlier run."""
        with self._lock:
            self._record |= {"pinned": decision.pinned, "rerun": decision.as_json()}
            self._save()
        self._watch("rerun", {"event": "decided", **decision.as_json()})

    def ship(self, artifact: Artifact) -> dict[str, Any]:
        """Record the model that the run hands over, and return what was recorded.

        Args:
            artifact: the artifact of the stage `ship`.
        """
        meta = self.look(artifact)
        found = {
            "stage": "ship",
            "path": artifact.path,
            **meta["shipped"],
            "temperature": meta["temperature"],
        }
        with self._lock:
            self._record["shipped"] = found
            self._save()
        return found

    def choose_k(self, k: int) -> None:
        """Record the number of clusters that a person chose in a review."""
        self.config = self.config.model_copy(
            update={"cluster": self.config.cluster.model_copy(update={"k": k})}
        )
        with self._lock:
            self._record["config"] = self.config.model_dump()
            self._save()
        (self.folder / "config.yaml").write_text(plain(self.config), encoding="utf-8")

    def make(self, label: str, request: Request | Artifact) -> tuple[Artifact, bool]:
        """Make a stage's artifact, unless the store has it, and add it to the record.

        Args:
            label: the stage's name in this run.
            request: the request, or an existing artifact.

        Returns:
            The artifact, and whether the store already had it.
        """
        self._watch(label, {"event": "started"})
        try:
            with self._storing():
                made, cached, seconds = self._whole(label, partial(self._make, label, request))
                self._note(label, made, cached, seconds)
        except BaseException as error:
            self._watch(label, {"event": "failed", "text": str(error)})
            raise
        return made, cached

    def look(self, artifact: Artifact) -> dict[str, Any]:
        """Read an artifact's meta.json. If it is damaged, the artifact is made again."""
        return self._whole(artifact.kind, partial(self.store.meta, artifact))

    def _make(self, label: str, request: Request | Artifact) -> tuple[Artifact, bool, float]:
        """Make a stage's artifact, unless the store has it -> the artifact, whether it had it, seconds."""
        began = [time.monotonic()]

        def listen(event: dict[str, Any]) -> None:
            if event["event"] == "running":  # don't count the time that the stage waited for its turn
                began[0] = time.monotonic()
            if event["event"] == "damaged":
                self._say_damaged(label, event["text"])
            else:
                self._watch(label, event)

        if isinstance(request, Artifact):
            return request, True, 0.0
        # If the request is `by_content`, its artifact's name is known before the build only if the sources
        # are unchanged.
        recall = Recall(self.store, request) if request.by_content else None
        wanted = request.artifact(self.store) if recall is None else recall.made()
        if wanted is not None and self.store.has(wanted):
            made, cached = wanted, True
        else:
            made, cached = self.workers.make(request, label, listen)
        if recall is not None:
            recall.keep(made)
        with self._lock:
            self._requests[made] = label, request
        return made, cached, time.monotonic() - began[0]

    def _whole(self, label: str, read: Callable[[], T]) -> T:
        """Call a function that reads artifacts. As long as it finds damaged ones, make these again."""
        while True:
            try:
                return read()
            except DamagedError as error:
                self._mend(label, error)

    def _mend(self, label: str, damage: DamagedError) -> None:
        """Set a damaged artifact aside, and make it again from the request by which this run made it."""
        artifact = damage.artifact
        with self._lock:
            known = self._requests.get(artifact)
            self._mended[artifact] += 1
            often = self._mended[artifact] > MENDED
        if known is None:  # an earlier run made it; if it were moved, the next run would train again
            raise damage
        moved = self.store.set_aside(artifact)
        if moved is not None:
            self._say_damaged(label, str(moved))
        if often:
            raise StageError(
                f"stage {label}: {damage.finding}, although it was just made again; look at the disk of "
                f"{self.store.root}"
            )
        own, request = known
        made, cached, seconds = self._whole(own, partial(self._make, own, request))
        if made != artifact:
            raise StageError(
                f"stage {label}: {damage.finding}, and its images have changed since the run began; run again"
            )
        if not cached:
            self._note(own, made, cached, seconds)

    def _say_damaged(self, label: str, text: str) -> None:
        with self._lock:
            self._damaged.append(text)
        self._watch(label, {"event": "damaged", "text": text})

    def _note(self, label: str, made: Artifact, cached: bool, seconds: float) -> None:
        """Put a finished stage into the record. One that was made again takes its old place."""
        meta = self.look(made)
        warnings = meta.get("warnings", [])
        computed = self._computed.get(made.fingerprint)
        if computed is not None:  # by this run, before it waited for a person
            cached, seconds = False, computed["seconds"]
        row = stage_row(label, made, meta, cached, seconds)
        with self._lock:
            rows = self._record["stages"]
            before = next((at for at, other in enumerate(rows) if other["stage"] == label), None)
            if before is None:
                rows.append(row)
            else:
                rows[before] = row
            self._warnings[label] = warnings
            self._save(durable=False)
        self._watch(label, {"event": "made", **row, "warnings": warnings})

    @property
    def record(self) -> dict[str, Any]:
        """The content of run.json so far."""
        with self._lock:
            return {**self._record, "stages": [dict(row) for row in self._record["stages"]]}

    @property
    def stages(self) -> list[dict[str, Any]]:
        """The record's stages so far."""
        with self._lock:
            return [dict(row) for row in self._record["stages"]]

    def finish(self, made: dict[str, Artifact]) -> dict[str, Any]:
        """Copy scores and report into the run's folder, and return the run's result.

        Args:
            made: label -> artifact of all stages, including `scores`, and `report` if there is one.

        Returns:
            JSON values: run, folder, report (a path or None), scores (rows), headline, shipped (the model
            that the run hands over, or None), stages, pinned, not_needed (stage that the run leaves out ->
            the reason), understood (sentences), unlabelled (a sentence if the chain ended early for lack of
            labels, or None), warnings.
        """
        from data.tables import read_table
        from tasks.report.stamp import write_stamped

        def open_whole(label: str) -> Path:
            return self._whole(label, partial(self.store.whole, made[label]))

        with self._storing():
            shutil.copyfile(open_whole("scores") / SCORES, self.folder / SCORES)
            if "report" in made:
                page = open_whole("report") / "report.html"
                write_stamped(page, self.folder / "report.html", self.name, self._record["started"])
        rows = read_table(self.folder / SCORES).to_pylist()
        self.result = {
            "run": self.name,
            "folder": str(self.folder),
            "report": str(self.folder / "report.html") if "report" in made else None,
            "headline": headline(rows),
            "scores": rows,
            "shipped": self.ship(made["ship"]) if "ship" in made else None,
            "stages": self.stages,
            "pinned": self._record["pinned"],
            "not_needed": dict(self._skipped),
            "understood": self._understood,
            "unlabelled": without_labels(self.config, self.look(made["manifest"]))
            if "manifest" in made
            else None,
            "warnings": [
                *self._damaged,
                *(text for row in self.stages for text in self._warnings[row["stage"]]),
            ],
        }
        return self.result

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.workers.close()
        stopped = error is not None and not isinstance(error, Exception)
        if isinstance(error, Waiting):
            with self._lock:
                self._record |= {"status": "waiting", "waiting": error.as_json()}
                self._save()
            self._watch("review", {"event": "waiting", "text": str(error), "until": error.as_json()["until"]})
        else:
            self._over("done" if error is None else "cancelled" if stopped else "failed")
        self._held.close()
        for watcher in self._watchers:
            watcher.end(self, self.result, error)

    def give_up(self, error: BaseException) -> None:
        """Write into the record that the run is over, because the thread that runs it hangs.

        Any thread may call this, and must then end the process. The children save their state and end when
        they see that their parent is gone.
        """
        self._over("cancelled" if stopped(error) else "failed", error=str(error))

    def waiting(self) -> list[tuple[str, str]]:
        """Other runs of this store that wait for a person: the name, and the id of the flow run."""
        return [
            (folder.name, record["waiting"]["flow_run"])
            for folder, record in records(self.store)
            if record["status"] == "waiting" and folder != self.folder
        ]

    def settle(self, name: str, status: str, because: str) -> None:
        """Write into the record of another run of this store that it no longer waits.

        Args:
            name: the run's name.
            status: failed or cancelled.
            because: how it ended.
        """
        end_record(self.store.root / "runs" / name, status, because)

    def _over(self, status: str, **more: str) -> None:
        with self._lock, suppress(OSError):  # on a full disk, the next command sees that the run is over
            if self._record["finished"] is None:
                self._record |= {"status": status, "finished": _now(), **more}
                self._save()

    def _save(self, *, durable: bool = True) -> None:
        write_record(self.folder, {**self._record, "damaged": self._damaged}, durable=durable)

    @contextmanager
    def _storing(self) -> Iterator[None]:
        """Say in one line that the disk is full or the store has vanished."""
        try:
            yield
        except Exception as error:
            known = None if isinstance(error, PipelineError) else about_storage(error, self.store.root)
            if known is None:
                raise
            raise known from None


def headline(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The main result: test accuracies of the shipped model, the student and the baseline, and the gain.

    Args:
        rows: rows of a scores table.

    Returns:
        shipped, student and scratch (0 to 1), and gain (-1 to 1), the difference of the last two, as far as
        they were measured.
    """
    few = {
        row["model"]: row["value"]
        for row in rows
        if (row["evaluation"], row["metric"]) == ("few-label", "top1")
    }
    found = {name: few[name] for name in ("shipped", "student", "scratch") if name in few}
    both = {"student", "scratch"} <= found.keys()
    return found | ({"gain": found["student"] - found["scratch"]} if both else {})


def _waited(store: Store, flow_run: str | None) -> tuple[Path, dict[str, Any]] | None:
    """The folder and the record of the run that waited for the person who resumed this flow run."""
    if flow_run is None:
        return None
    for folder, record in records(store):
        if record["status"] == "waiting" and record["waiting"]["flow_run"] == flow_run:
            return folder, record
    return None


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


def stopped(error: BaseException) -> bool:
    """Whether an error means that somebody asked the run to stop."""
    return isinstance(error, Interrupted | KeyboardInterrupt) or type(error).__name__ == "TerminationSignal"
