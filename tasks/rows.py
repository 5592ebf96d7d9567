"""Read rows of the manifest and of the drawn labels as arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.schemas import LABELS, MANIFEST
from data.tables import column, read_table


def manifest_rows(folder: Path, splits: tuple[str, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Index (N,) and label (N,) int64 of the manifest's rows in the given splits, in order of index.

    The label is -1 if an image has none.
    """
    table = read_table(folder / "images.parquet", MANIFEST)
    index, label = column(table, "index"), column(table, "label").astype(np.int64)
    wanted = np.isin(column(table, "split").astype(str), splits)
    order = np.argsort(index[wanted])
    return index[wanted][order], label[wanted][order]


def label_rows(folder: Path, role: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Index (N,) and label (N,) int64 of the drawn labels with a role: train or validation."""
    table = read_table(folder / "labels.parquet", LABELS)
    wanted = column(table, "role").astype(str) == role
    return column(table, "index")[wanted], column(table, "label")[wanted].astype(np.int64)


def drawn_rows(folder: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Index (N,) ascending and label (N,) int64 of all drawn labels, those for validation too."""
    table = read_table(folder / "labels.parquet", LABELS)
    index, label = column(table, "index"), column(table, "label").astype(np.int64)
    order = np.argsort(index)
    return index[order], label[order]
