"""Write a run's report again, from the artifacts that its record names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data.errors import ConfigError
from data.store import Store
from data.types import Artifact
from flows.chain import FEW_LABELS, chain
from flows.layout import Hooks, Plan
from flows.pin import TRAINED
from flows.records import ALL, read_record, write_record
from tasks.config import Config
from tasks.overlay import resolve
from tasks.report.stamp import write_stamped
from tasks.stage import Request
from tasks.workers import Workers


def rewrite_report(named: str, store: str | None) -> Path:
    """Write report.html of a run again. It shows the files that the run's last export has written.

    The report is built if the store does not have it in this version's form.

    Args:
        named: a run's folder, or the name of a run in the store.
        store: the store's folder; None: the store of the run's folder, or the default store.

    Returns:
        The path of the file.

    Raises:
        ConfigError: there is no such run, or it stopped before its scores.
    """
    folder = run_folder(named, store)
    opened = Store(folder.parent.parent)
    record = read_record(folder, *ALL)
    rows = {row["stage"]: row for row in record["stages"]}
    config = resolve(record["config"])

    def recorded(label: str, plan: Plan, /, *, after: Any = None, **inputs: Artifact) -> Artifact:
        if label == "report":
            exported = _taken(rows["export"]) if "export" in rows else None
            if exported is not None and opened.has(exported):
                inputs["export"] = exported
            return _report(opened, config, folder, plan(**inputs))
        label = next((chosen for chosen in (f"{label}-k{config.cluster.k}", label) if chosen in rows), label)
        if label not in rows:
            raise ConfigError(
                f"run {folder.name!r} has no stage {label} (its status is {record['status']}); "
                "run it again first"
            )
        return _taken(rows[label])

    kept = {}
    if record.get("pinned"):
        trained = [label for label, row in rows.items() if row["kind"] in TRAINED]
        own = FEW_LABELS if "labels" in rows else ()  # the run trained these stages itself
        kept = {label: _taken(rows[label]) for label in trained if not label.startswith(own)}
    with opened.in_use():  # until the record names the new report, `store gc` would delete it
        report = chain(config, Hooks(recorded, opened.meta), kept=kept)["report"]
        if "report" in rows:
            rows["report"] |= {"fingerprint": report.fingerprint, "path": report.path}
            write_record(folder, record)
        page = opened.whole(report) / "report.html"
        write_stamped(page, folder / "report.html", record["name"], record["started"])
    return folder / "report.html"


def _taken(row: dict[str, Any]) -> Artifact:
    return Artifact(kind=row["kind"], fingerprint=row["fingerprint"])


def _report(store: Store, config: Config, folder: Path, request: Request | Artifact) -> Artifact:
    assert isinstance(request, Request)
    wanted = request.artifact(store)
    if store.has(wanted):
        return wanted
    with Workers(store, config.compute, folder / "log.txt") as workers:
        made, _ = workers.make(request, "report", lambda event: None)
    return made


def run_folder(named: str, store: str | None) -> Path:
    """Find the folder of a run.

    Args:
        named: the run's folder, or its name in the store.
        store: the store's folder; None: the default store.

    Raises:
        ConfigError: there is no such run.
    """
    runs = Path(store or Config().store).expanduser().absolute() / "runs"
    for folder in (Path(named).expanduser().absolute(), runs / named):
        if (folder / "run.json").exists():
            return folder
    raise ConfigError(
        f"run {named!r} is neither a folder with run.json nor a run in {runs}; "
        "give another name, or the store with --store"
    )
