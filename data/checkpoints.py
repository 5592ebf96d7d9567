"""A published network on disk: model.safetensors (float32), model.json (what to build), log.parquet (how it went)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from data.errors import ArtifactError
from data.schemas import LOG
from data.store import write_json
from data.tables import write_table

Row = tuple[int, float, str, float]
"""(step, epoch, name, value), as in log.parquet."""


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write named arrays as safetensors; floats become float32."""
    kept = {name: a.astype(np.float32) if a.dtype.kind == "f" else a for name, a in arrays.items()}
    save_file({name: np.ascontiguousarray(a) for name, a in kept.items()}, path)


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read named arrays from a safetensors file."""
    try:
        arrays: dict[str, NDArray[Any]] = load_file(path)
    except OSError as error:
        raise ArtifactError(f"{path} can't be read: {error}") from None
    return arrays


def write_checkpoint(
    folder: Path, arrays: Mapping[str, NDArray[Any]], description: Mapping[str, Any], log: Sequence[Row]
) -> None:
    """Write the three files of an artifact of kind checkpoint.

    Args:
        folder: an existing folder.
        arrays: parameters and buffers by name.
        description: JSON values from which the network is built anew: model.json.
        log: rows of log.parquet.
    """
    write_arrays(folder / "model.safetensors", arrays)
    write_json(folder / "model.json", dict(description))
    step, epoch, name, value = zip(*log, strict=True) if log else ((), (), (), ())
    write_table(folder / "log.parquet", {"step": step, "epoch": epoch, "name": name, "value": value}, LOG)


def read_description(folder: Path) -> dict[str, Any]:
    """model.json of a checkpoint."""
    try:
        description: dict[str, Any] = json.loads((folder / "model.json").read_text())
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{folder / 'model.json'} can't be read: {error}") from None
    return description
