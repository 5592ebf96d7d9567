"""A run's report anew, from the artifacts that its record names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from data.errors import ConfigError
from data.store import Store, write_json
from data.types import Artifact
from flows.chain import FEW_LABELS, Hooks, Plan, chain
from flows.pin import TRAINED
from tasks.config import Config, resolve
from tasks.stage import Request
from tasks.workers import Workers


def rewrite_report(named: str, store: str | None) -> Path:
    """Write report.html of a run; the report is built if the store no longer has it as this version would make it.

    Args:
        named: a run's folder, or the name of a run in the store.
        store: the store's folder; the default one, or the one the run's folder lies in, if None.

    Returns:
        The file.

    Raises:
        ConfigError: there is no such run, or it did not get as far as its scores.
    """
    folder = _run_folder(named, store)
    opened = Store(folder.parent.parent)
    record = json.loads((folder / "run.json").read_text())
    rows = {row["stage"]: row for row in record["stages"]}
    config = resolve(record["config"])

    def recorded(label: str, plan: Plan, /, *, after: Any = None, **inputs: Artifact) -> Artifact:
        if label == "report":
            earlier = [row for row in record["stages"] if row["stage"] != "report"]
            run = {"name": record["name"], "started": record["started"], "stages": earlier}
            return _report(opened, config, folder, plan(**inputs), run)
        label = next((chosen for chosen in (f"{label}-k{config.cluster.k}", label) if chosen in rows), label)
        if label not in rows:
            raise ConfigError(
                f"run {folder.name!r} has no stage {label} (it is {record['status']}); run it again first"
            )
        return _taken(rows[label])

    kept = {}
    if record.get("pinned"):
        trained = [label for label, row in rows.items() if row["kind"] in TRAINED]
        own = FEW_LABELS if "labels" in rows else ()  # it has learned from labels itself
        kept = {label: _taken(rows[label]) for label in trained if not label.startswith(own)}
    report = chain(config, Hooks(recorded, opened.meta), kept=kept)["report"]
    if "report" in rows:
        rows["report"] |= {"fingerprint": report.fingerprint, "path": report.path}
        write_json(folder / "run.json", record)
    shutil.copyfile(opened.folder(report) / "report.html", folder / "report.html")
    return folder / "report.html"


def _taken(row: dict[str, Any]) -> Artifact:
    return Artifact(kind=row["kind"], fingerprint=row["fingerprint"])


def _report(store: Store, config: Config, folder: Path, request: Request | Artifact, run: dict[str, Any]) -> Artifact:
    assert isinstance(request, Request)
    wanted = request.artifact(store)
    if store.has(wanted):
        return wanted
    with Workers(store, config.compute, folder / "log.txt") as workers:
        known = request.model_copy(update={"outside": request.outside | {"run": run}})
        made, _ = workers.make(known, "report", lambda event: None)
    return made


def _run_folder(named: str, store: str | None) -> Path:
    runs = Path(store or Config().store).expanduser().absolute() / "runs"
    for folder in (Path(named).expanduser().absolute(), runs / named):
        if (folder / "run.json").exists():
            return folder
    raise ConfigError(f"run {named!r} is neither a folder with run.json nor in {runs}; give another, or --store")
