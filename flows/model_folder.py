"""Find the network that a user names: the model that a run ships, a checkpoint, or an exported file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.errors import ConfigError, DataError, there
from data.files import Checked
from data.store import Store, wrong_in
from data.types import Artifact
from flows.records import read_record
from models.export.given import is_exported, told

FILES = ("model.safetensors", "model.json")
ANSWERED = "few-label"
"""The only evaluation that needs nothing but answers."""
_LAST = ("distill", "transfer")
"""Stages that make a run's final student. The first one that a run has counts."""


def model_folder(named: str, store: Store) -> Path:
    """Find a model to measure.

    Args:
        named: a folder with `FILES`, a run's folder, the name of a run in the store, or an exported file. A
            run stands for the model that it ships, or for its last student if it had no labels.
        store: the store in which runs are looked up by name.

    Returns:
        Its folder, or the exported file or folder, as `models.export.given.is_exported` says.

    Raises:
        ConfigError: `named` is none of these, or the run has no student.
        DamagedError: a file of the model is missing, or is not what was written.
    """
    run = _run(named, store.root)
    if run is not None:
        return shipped(run) if read_record(run).get("shipped") else final_student(run)
    return _alone(named, store.root)


def check_protocols(place: Path, protocols: Sequence[str]) -> None:
    """Check that a model can be measured by some evaluations.

    Args:
        place: the model, as `model_folder` returns it.
        protocols: names of evaluations.

    Raises:
        ConfigError: it is an exported file, which only answers, and an evaluation needs more.
    """
    others = [name for name in protocols if name != ANSWERED]
    if others and is_exported(place):
        raise ConfigError(
            f"evaluate: {', '.join(others)} can't measure {str(place)!r}, because an exported file only "
            f"answers; choose {ANSWERED}, or give the run or checkpoint that it came from"
        )


def description(place: Path) -> dict[str, Any]:
    """What a model says of itself, with the keys of model.json that concern images and classes.

    Args:
        place: the model, as `model_folder` returns it.

    Raises:
        ConfigError: an exported file can't be read, or no export wrote it.
        DataError: model.json can't be read.
    """
    if is_exported(place):
        about = told(place)
        return {**about["preprocessing"], "class_names": about["classes"]}
    try:
        found: dict[str, Any] = json.loads((place / "model.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"model {str(place)!r}: model.json can't be read: {error}") from None
    return found


@dataclass(frozen=True)
class Usable:
    """A model that can be asked about images.

    Attributes:
        place: its folder or exported file, absolute.
        run: the folder of the run that ships it, absolute; None if the user named the model itself.
    """

    place: Path
    run: Path | None


def usable_model(named: str, root: Path) -> Usable:
    """Find the model that `predict` asks: the one that a run ships, a checkpoint, or an exported file.

    Nothing is written.

    Args:
        named: a run's folder, the name of a run in the store, a folder with `FILES`, or an exported file or
            folder.
        root: the store in which runs are looked up by name.

    Raises:
        ConfigError: `named` is none of these, or the run ships no model.
        DamagedError: a file of the model is missing, or is not what was written.
    """
    run = _run(named, root)
    if run is not None:
        return Usable(shipped(run), run)
    return Usable(_alone(named, root), None)


def shipped(run: Path) -> Path:
    """Find the folder of the model that a run ships.

    Args:
        run: the run's folder, absolute.

    Raises:
        ConfigError: the run ships none, or the store no longer has it.
    """
    record = read_record(run)
    if not record.get("shipped"):
        raise ConfigError(
            f"run {run.name!r} ships no model (it is {record['status']}); "
            "run it to its end, with labels, or give the folder of a checkpoint"
        )
    folder = run.parent.parent / str(record["shipped"]["path"])
    if not folder.exists():
        raise ConfigError(f"run {run.name!r}: its model is gone from {folder}; run it again")
    return whole_model(folder)


def _run(named: str, root: Path) -> Path | None:
    """The folder of the run with this name or path, absolute; None if there is no such run."""
    places = (Path(named).expanduser(), root / "runs" / named)
    return next((_real(place) for place in places if (place / "run.json").exists()), None)


def _real(folder: Path) -> Path:
    """An absolute path. If the folder itself is a link, such as `latest`, the one that it points to."""
    folder = folder.absolute()
    return folder.resolve() if folder.is_symlink() else folder


def whole_model(folder: Path) -> Path:
    """Check the files of a model, if it has a meta.json that says what they were.

    Args:
        folder: an artifact of a store, a copy of one, or another folder with `FILES`.

    Raises:
        DamagedError: a file of an artifact is missing, or is not what was written.
        ConfigError: a file of a copy is missing, or is not what was written.
    """
    folder = _real(folder)
    if not (folder / "meta.json").exists():
        return folder
    artifacts = folder.parent.parent
    if artifacts.name == "artifacts" and there(artifacts.parent):
        artifact = Artifact(kind=folder.parent.name, fingerprint=folder.name)
        return Store(artifacts.parent, make=False).whole(artifact)
    wrong = wrong_in(folder, thorough=True, checked=Checked())
    if wrong is not None:
        raise ConfigError(f"{folder / wrong.file} {wrong.reason}; copy the model from its store again")
    return folder


def _alone(named: str, root: Path) -> Path:
    """A model that is named by its own folder or file, and not by a run."""
    path = Path(named).expanduser()
    if is_exported(path):
        return path.absolute()
    if all((path / name).exists() for name in FILES):
        return whole_model(path)
    raise ConfigError(
        f"model {named!r} is neither a run in {root / 'runs'}, nor the folder of a run or of a model (with "
        f"{' and '.join(FILES)}), nor an exported file; give one of these, or the run's store with --store"
    )


def final_student(run: Path) -> Path:
    """The folder of a run's last student. See `model_folder` for the error."""
    rows = {row["stage"]: row for row in read_record(run)["stages"]}
    folders = [run.parent.parent / str(rows[stage]["path"]) for stage in _LAST if stage in rows]
    if folders and folders[0].exists():
        return whole_model(folders[0])
    raise ConfigError(
        f"run {run.name!r} has no trained student in {run.parent.parent}; run it to the end first"
    )


def image_size(place: Path) -> int:
    """The side of the images that a model was made for, px.

    Raises:
        ConfigError: an exported file can't be read, or no export wrote it.
        DataError: model.json has no image_size.
    """
    try:
        return int(description(place)["image_size"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"model {str(place)!r}: model.json has no image_size ({error}); this tool did not write it"
        ) from None


def stored(folder: Path, store: Store) -> Artifact | None:
    """The folder as an artifact, if it is a checkpoint of this store; else None."""
    if folder.resolve().parent != (store.root / "artifacts" / "checkpoint").resolve():
        return None
    found = Artifact(kind="checkpoint", fingerprint=folder.name)
    return found if store.has(found) else None
