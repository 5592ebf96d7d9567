"""Write what a model says of images to a Parquet or CSV file, block by block."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from data.errors import ConfigError
from data.files import replacing

FORMATS = (".parquet", ".csv")
"""Suffixes of the files that can be written."""


def check_path(path: Path, *, vectors: bool) -> None:
    """Check, before any work, that a file can be written.

    Args:
        path: the file.
        vectors: whether it is to hold vectors.

    Raises:
        ConfigError: its folder is missing, its suffix is unknown, or CSV is asked to hold vectors.
    """
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"--out {path}: the file must end with {' or '.join(FORMATS)}")
    if vectors and path.suffix.lower() == ".csv":
        raise ConfigError(f"--out {path}: CSV can't hold vectors; let the file end with .parquet")
    if not path.absolute().parent.is_dir() or path.is_dir():
        what = "it is a folder" if path.is_dir() else f"there is no folder {path.absolute().parent}"
        raise ConfigError(f"--out {path}: {what}; name a file in an existing folder")


def block(schema: pa.Schema, columns: Mapping[str, Any]) -> pa.RecordBatch:
    """Make rows of a schema.

    Args:
        schema: `data.schemas.predictions`.
        columns: name -> values; the vectors are (n, D) float32 with NaN in rows that have none.
    """
    arrays = []
    for field in schema:
        values = columns[field.name]
        if pa.types.is_fixed_size_list(field.type):
            flat = pa.array(np.ascontiguousarray(values, np.float32).reshape(-1))
            absent = pa.array(np.isnan(values).all(axis=1))
            arrays.append(pa.FixedSizeListArray.from_arrays(flat, type=field.type, mask=absent))
        else:
            arrays.append(pa.array(values, field.type, from_pandas=True))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


class AnswerFile:
    """A context manager that writes blocks to a file. The file appears when the block ends without an error.

    Args:
        path: the file; its suffix is one of `FORMATS`.
        schema: `data.schemas.predictions`.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._path, self._schema = path, schema
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        draft = self._stack.enter_context(replacing(self._path, durable=False))
        if self._path.suffix.lower() == ".csv":
            self._writer = self._stack.enter_context(pyarrow.csv.CSVWriter(draft, self._schema))
        else:
            self._writer = self._stack.enter_context(pq.ParquetWriter(draft, self._schema))
        return self

    def write(self, rows: pa.RecordBatch) -> None:
        """Append rows."""
        self._writer.write_batch(rows)

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)
