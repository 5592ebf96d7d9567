"""Export the model that a run ships: files for other programs, each checked, and a card."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from data.errors import ConfigError, PipelineError
from data.files import file_sha256
from data.store import Store, write_json
from data.types import Artifact
from flows.model_folder import shipped
from flows.recipes import override
from flows.records import read_record, stage_row, write_record
from flows.rewrite import run_folder
from models.export import FORMATS, INSTALL
from tasks.card import readme
from tasks.config import Config
from tasks.overlay import resolve
from tasks.phrases import percent
from tasks.stages import export
from tasks.workers import Workers

CARD = "card.json"


def export_run(
    named: str,
    to: str,
    formats: list[str] | None = None,
    settings: dict[str, Any] | None = None,
    *,
    store: str | None = None,
    listen: Callable[[dict[str, Any]], None] = lambda event: None,
) -> dict[str, Any]:
    """Write the model that a run ships into a folder.

    Args:
        named: a run's folder, or the name of a run in the store.
        to: the folder: new, empty, or written by an earlier export.
        formats: names in `models.export.FORMATS`; None: all that suit the network and whose packages are
            installed.
        settings: settings that differ from the run's, as nested dicts, such as {"export": {"max_drop": 2}}.
        store: the store's folder; None: the store of the run's folder, or the default store.
        listen: gets every event of the stage.

    Returns:
        `folder`, `run`, `cached`, `formats`: name -> row of card.json, `left_out`: sentences, `report_with`:
        the command that shows the files in the run's report.

    Raises:
        ConfigError: there is no such run or format, the run ships no classifier, a package is missing, or
            the folder has other files.
        PipelineError: a format that was asked for by name is refused, or all are. The folder has the files of
            the other formats.
    """
    for section in (settings or {}).keys() - {"export", "compute"}:
        raise ConfigError(f"--set {section}: the run is done; only export.max_drop and compute can be set")
    folder = run_folder(named, store)
    opened = Store(folder.parent.parent)
    record = read_record(folder, "name", "config")
    model = shipped(folder)
    described = json.loads((model / "model.json").read_text(encoding="utf-8"))
    if not described.get("class_names"):
        raise ConfigError(f"run {folder.name!r} ships a network that names no classes: run it with labels")
    chosen, left_out = _formats(formats, one_bit=described["backbone"] == "reactnet")
    target = Path(to).expanduser().absolute()
    _check_target(target)
    config = override(resolve(record["config"]), settings or {})
    rows = {row["stage"]: row for row in record["stages"]}
    began = time.monotonic()
    with opened.in_use():  # until the run's record names the artifact, `store gc` would delete it
        made, cached = _make(opened, config, rows, model, chosen, folder, listen)
        _note(opened, folder, made, cached, time.monotonic() - began)
        place = opened.whole(made)
        card = json.loads((place / CARD).read_text(encoding="utf-8")) | {"run": record["name"]}
        _copy(place, target, card)
    result = {"folder": str(target), "run": record["name"], "cached": cached, "formats": card["formats"]}
    kept = [name for name, row in card["formats"].items() if row["refused"] is None]
    refused = [name for name in formats or () if name not in kept]
    if refused or not kept:
        name = (refused or chosen)[0]
        raise PipelineError(f"export: {name} is refused: {card['formats'][name]['refused']}")
    words = ["knowledge-transfer", "report", named, *(["--store", store] if store else [])]
    return result | {"left_out": left_out, "report_with": shlex.join(words)}


def _note(store: Store, folder: Path, made: Artifact, cached: bool, seconds: float) -> None:
    """Put the export into the run's record, in place of an earlier one. `report` and `store gc` read it."""
    record = read_record(folder)
    row = stage_row("export", made, store.meta(made), cached, seconds)
    others = [each for each in record["stages"] if each["stage"] != "export"]
    write_record(folder, record | {"stages": [*others, row]})


def said(result: dict[str, Any]) -> list[str]:
    """Lines for the terminal about the result of `export_run`."""
    lines = [f"{result['folder']}: README.md says how to load each file"]
    for name, row in result["formats"].items():
        if row["refused"] is not None:
            lines.append(f"  {name:<12}refused: {row['refused']}")
            continue
        accuracy = f", right {percent(row['accuracy'])}" if "accuracy" in row else ""
        size = f"{row['bytes'] / 1e6:.2f} MB"
        lines.append(f"  {name:<12}{row['file']}, {size}{accuracy}, {row['rate']:,.0f} images/s")
    lines.append(f"  {result['report_with']} shows these files in the run's report")
    return [*lines, *result["left_out"]]


def _formats(asked: list[str] | None, *, one_bit: bool) -> tuple[list[str], list[str]]:
    """The formats to write, and a sentence about those that lack a package.

    Args:
        asked: the formats that the user named; None: all that suit the network.
        one_bit: whether the network has 1-bit weights.

    Raises:
        ConfigError: a format is unknown or lacks a package.
    """
    for name in asked or ():
        if name not in FORMATS:
            raise ConfigError(f"--format {name}: choose of {', '.join(FORMATS)}")
    lacking = {name: form.missing for name, form in FORMATS.items() if form.missing}
    for name in asked or ():
        if name in lacking:
            raise ConfigError(
                f"--format {name} needs {', '.join(lacking[name])}; install them with: {INSTALL}"
            )
    if asked:
        return list(dict.fromkeys(asked)), []
    left_out = []
    if lacking:
        left_out = [f"not written: {', '.join(lacking)}; install what they need with: {INSTALL}"]
    suiting = [name for name, form in FORMATS.items() if one_bit or not form.binary]
    return [name for name in suiting if name not in lacking], left_out


def _make(
    store: Store,
    config: Config,
    rows: dict[str, dict[str, Any]],
    model: Path,
    formats: list[str],
    folder: Path,
    listen: Callable[[dict[str, Any]], None],
) -> tuple[Artifact, bool]:
    """Make the stage's artifact, unless the store has it."""

    def taken(label: str) -> Artifact | None:
        if label not in rows:
            return None
        artifact = Artifact(kind=rows[label]["kind"], fingerprint=rows[label]["fingerprint"])
        return artifact if store.has(artifact) else None

    manifest = taken("manifest")
    checkpoint = Artifact(kind="checkpoint", fingerprint=model.name)
    if manifest is None or not store.has(checkpoint):
        raise ConfigError(f"run {folder.name!r}: its files are gone from {store.root}; run it again")
    given = {"labels": taken("labels"), "teacher": taken("finetune-teacher")}
    request = export.plan(config, manifest, checkpoint, formats=formats, **given)
    wanted = request.artifact(store)
    if store.has(wanted):
        return wanted, True
    with Workers(store, config.compute, folder / "log.txt") as workers:
        return workers.make(request, "export", listen)


def _check_target(target: Path) -> None:
    """Refuse a folder with files that no export wrote.

    Raises:
        ConfigError: it has such files, or is no folder.
    """
    if not target.exists():
        return
    if not target.is_dir():
        raise ConfigError(f"--to {target} is a file; give a folder")
    others = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}
    others = {name for name in others if "__pycache__" not in name}  # Python left it when a reader was used
    with suppress(OSError, ValueError, KeyError, TypeError):  # without a card, no export wrote this folder
        others -= {CARD, "README.md", *json.loads((target / CARD).read_text(encoding="utf-8"))["files"]}
    if others:
        raise ConfigError(
            f"--to {target} has files that no export wrote, such as {min(others)}; give a new folder"
        )


def _copy(source: Path, target: Path, card: dict[str, Any]) -> None:
    """Write the folder beside its place, and rename it, so that nobody sees half of it."""
    draft = target.with_name(f".{target.name}-{os.getpid()}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(draft, ignore_errors=True)
    try:
        shutil.copytree(source, draft, ignore=shutil.ignore_patterns("meta.json", CARD))
        files = sorted(path for path in draft.rglob("*") if path.is_file())
        names = {path.relative_to(draft).as_posix(): file_sha256(path) for path in files}
        write_json(draft / CARD, card | {"files": names})
        (draft / "README.md").write_text(readme(card), encoding="utf-8")
        if target.exists():
            shutil.rmtree(target)
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
