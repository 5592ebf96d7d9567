"""A published network on disk, as three files.

model.safetensors    parameters and buffers, float32
model.json           the description from which the network is built
log.parquet          loss, gradient norm and learning rate during training
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from data.errors import ArtifactError
from data.schemas import LOG
from data.store import write_json
from data.tables import write_table


class LogRow(NamedTuple):
    """A row of log.parquet: the mean of one logged value over the steps since its previous row.

    Attributes:
        step: number of updates done when the row was written; the first update is 1.
        epoch: the same point in passes over the images, as a fraction.
        name: loss, gradient_norm, learning_rate, or a term that the method logs.
        value: the mean.
    """

    step: int
    epoch: float
    name: str
    value: float


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write named arrays as a safetensors file. Floating-point arrays are converted to float32."""
    kept = {name: a.astype(np.float32) if a.dtype.kind == "f" else a for name, a in arrays.items()}
    save_file({name: np.ascontiguousarray(a) for name, a in kept.items()}, path)


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read named arrays from a safetensors file.

    Raises:
        ArtifactError: the file can't be read.
    """
    try:
        arrays: dict[str, NDArray[Any]] = load_file(path)
    except OSError as error:
        raise ArtifactError(f"{path} can't be read: {error}") from None
    return arrays


def write_checkpoint(
    folder: Path, arrays: Mapping[str, NDArray[Any]], description: Mapping[str, Any], log: Sequence[LogRow]
) -> None:
    """Write the three files of a checkpoint artifact.

    Args:
        folder: an existing folder.
        arrays: parameters and buffers by name.
        description: JSON values from which the network is rebuilt; becomes model.json.
        log: rows of log.parquet.
    """
    write_arrays(folder / "model.safetensors", arrays)
    write_json(folder / "model.json", dict(description))
    step, epoch, name, value = zip(*log, strict=True) if log else ((), (), (), ())
    write_table(folder / "log.parquet", {"step": step, "epoch": epoch, "name": name, "value": value}, LOG)


def read_description(folder: Path) -> dict[str, Any]:
    """Read a checkpoint's model.json.

    Raises:
        ArtifactError: the file is missing, or is not JSON.
    """
    try:
        description: dict[str, Any] = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{folder / 'model.json'} can't be read: {error}") from None
    return description
