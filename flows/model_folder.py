"""Find the network that a user names: a run's final student, a checkpoint in a store, or another folder."""

from __future__ import annotations

import json
from pathlib import Path

from data.errors import ConfigError, DataError
from data.store import Store
from data.types import Artifact

FILES = ("model.safetensors", "model.json")
_LAST = ("distill", "transfer")
"""Stages that make a run's final student. The first one that a run has counts."""


def model_folder(named: str, store: Store) -> Path:
    """Find the folder of a model.

    Args:
        named: a folder with `FILES`, a run's folder, or the name of a run in the store.
        store: the store in which runs are looked up by name.

    Raises:
        ConfigError: `named` is none of these.
    """
    path = Path(named).expanduser()
    for folder in (path, store.root / "runs" / named):
        if (folder / "run.json").exists():
            return final_student(folder.absolute())
    if all((path / name).exists() for name in FILES):
        return path.absolute()
    raise ConfigError(
        f"model {named!r} is neither a run in {store.root / 'runs'} nor a folder with {' and '.join(FILES)}; "
        "give one of these"
    )


def final_student(run: Path) -> Path:
    """Find the folder of a run's final student.

    Args:
        run: the run's folder, absolute.

    Raises:
        ConfigError: the run has no student, or the store no longer has it.
    """
    rows = {row["stage"]: row for row in json.loads((run / "run.json").read_text(encoding="utf-8"))["stages"]}
    folders = [run.parent.parent / str(rows[stage]["path"]) for stage in _LAST if stage in rows]
    if folders and folders[0].exists():
        return folders[0]
    raise ConfigError(
        f"run {run.name!r} has no trained student in {run.parent.parent}; run it to the end first"
    )


def image_size(folder: Path) -> int:
    """The side of the images that a model was made for, px.

    Raises:
        DataError: model.json has no image_size.
    """
    try:
        return int(json.loads((folder / "model.json").read_text(encoding="utf-8"))["image_size"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"model {str(folder)!r}: model.json has no image_size ({error}); this tool did not write it"
        ) from None


def stored(folder: Path, store: Store) -> Artifact | None:
    """The folder as an artifact, if it is a checkpoint of this store; else None."""
    if folder.resolve().parent != (store.root / "artifacts" / "checkpoint").resolve():
        return None
    found = Artifact(kind="checkpoint", fingerprint=folder.name)
    return found if store.has(found) else None
