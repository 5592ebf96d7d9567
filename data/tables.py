"""Parquet in and out: whole tables of scalars, and streams of vectors that never sit in memory twice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data.errors import ArtifactError

ROWS_PER_PART = 1 << 18
_PLAIN = {"use_dictionary": False, "compression": "none", "write_statistics": False}
"""Vectors neither compress nor repeat: plain pages write and read several times faster."""


def write_table(path: Path, columns: Mapping[str, Any], schema: pa.Schema) -> int:
    """Write columns as one Parquet file.

    Returns:
        The number of rows.

    Raises:
        ArtifactError: if columns and schema don't agree, naming the column.
    """
    missing = [name for name in schema.names if name not in columns]
    if missing:
        raise ArtifactError(f"{path.name}: column {missing[0]} is missing; have {', '.join(columns)}")
    arrays = [pa.array(columns[field.name], type=field.type, from_pandas=True) for field in schema]
    table = pa.Table.from_arrays(arrays, schema=schema)
    pq.write_table(table, path, compression="zstd")
    return int(table.num_rows)


def read_table(path: Path, schema: pa.Schema | None = None) -> pa.Table:
    """Read one Parquet file, or all `part-*.parquet` of a folder.

    Raises:
        ArtifactError: if it is missing or lacks a column of the schema.
    """
    files = sorted(path.glob("part-*.parquet")) if path.is_dir() else [path]
    try:
        table = ds.dataset([str(file) for file in files], format="parquet").to_table()
    except (OSError, pa.ArrowInvalid) as error:
        raise ArtifactError(f"{path} can't be read: {error}") from None
    for field in schema or ():
        if field.name not in table.column_names or table.schema.field(field.name).type != field.type:
            raise ArtifactError(f"{path}: column {field.name} of type {field.type} expected, have {table.schema}")
    return table


def column(table: pa.Table, name: str) -> NDArray[Any]:
    """A scalar column as numpy; nulls of an integer column become -1."""
    values = table[name].combine_chunks()
    if values.null_count and pa.types.is_integer(values.type):
        values = values.fill_null(-1)
    return np.asarray(values.to_numpy(zero_copy_only=False))


def read_matrix(table: pa.Table, name: str) -> NDArray[np.float32]:
    """A column of fixed-size lists as an (N, D) float32 array."""
    return _matrix(table[name])


def _matrix(values: pa.ChunkedArray | pa.Array) -> NDArray[np.float32]:
    chunks = values.chunks if isinstance(values, pa.ChunkedArray) else [values]
    flat = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in chunks]
    width = values.type.list_size
    whole = np.concatenate(flat) if len(flat) != 1 else flat[0]
    return np.asarray(whole, dtype=np.float32).reshape(-1, width)


class VectorWriter:
    """Streams (index, vector) blocks to `part-*.parquet`: a context manager; memory holds one block.

    Args:
        folder: where the parts go.
        schema: `schemas.features(...)` or `schemas.probabilities(...)`: index and one fixed-size list.
        rows_per_part: a new file starts after so many rows.
    """

    def __init__(self, folder: Path, schema: pa.Schema, rows_per_part: int = ROWS_PER_PART) -> None:
        self.folder, self.schema, self.rows_per_part = folder, schema, rows_per_part
        self.rows = 0
        self._in_part = self._parts = 0
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> Self:
        return self

    def write(self, index: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Append a block: (B,) int64 and (B, D) float32."""
        if self._writer is None or self._in_part + len(index) > self.rows_per_part > len(index):
            self._next_part()
        assert self._writer is not None
        name = self.schema.names[1]
        field = self.schema.field(name)
        flat = pa.array(np.ascontiguousarray(vectors, dtype=np.float32).reshape(-1))
        values = pa.FixedSizeListArray.from_arrays(flat, type=field.type)
        self._writer.write_batch(pa.RecordBatch.from_arrays([pa.array(index, pa.int64()), values], schema=self.schema))
        self.rows += len(index)
        self._in_part += len(index)

    def _next_part(self) -> None:
        if self._writer is not None:
            self._writer.close()
        path = self.folder / f"part-{self._parts:05d}.parquet"
        self._writer = pq.ParquetWriter(path, self.schema, **_PLAIN)
        self._parts += 1
        self._in_part = 0

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._writer is None and error is None:
            self._next_part()
        if self._writer is not None:
            self._writer.close()


def read_vectors(folder: Path) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """All vectors of a features or probabilities artifact, filled part by part into one array.

    Returns:
        index (N,) int64 ascending, vectors (N, D) float32 in the same order.
    """
    files = sorted(folder.glob("part-*.parquet"))
    if not files:
        raise ArtifactError(f"{folder} holds no part-*.parquet")
    rows = sum(pq.read_metadata(file).num_rows for file in files)
    index = np.empty(rows, np.int64)
    vectors: NDArray[np.float32] | None = None
    at = 0
    for block_index, block in iterate_vectors(folder):
        if vectors is None:
            vectors = np.empty((rows, block.shape[1]), np.float32)
        index[at : at + len(block)], vectors[at : at + len(block)] = block_index, block
        at += len(block)
    if vectors is None:
        schema = pq.read_schema(files[0])
        vectors = np.empty((0, schema.field(1).type.list_size), np.float32)
    if np.any(index[1:] < index[:-1]):
        order = np.argsort(index, kind="stable")
        index, vectors = index[order], vectors[order]
    return index, vectors


def iterate_vectors(folder: Path, rows: int = 1 << 15) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Blocks (index (B,), vectors (B, D)) of a features or probabilities artifact, in file order."""
    for file in sorted(folder.glob("part-*.parquet")):
        with pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20) as parquet:
            for batch in parquet.iter_batches(batch_size=rows):
                yield batch.column(0).to_numpy(zero_copy_only=False), _matrix(batch.column(1))


class AssignmentWriter:
    """Streams assignments to `part-*.parquet`. The same shape of use as `VectorWriter`."""

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        self.schema, self.rows = schema, 0
        self._writer = pq.ParquetWriter(folder / "part-00000.parquet", schema, compression="zstd")

    def __enter__(self) -> Self:
        return self

    def write(self, **columns: NDArray[Any]) -> None:
        """Append a block of equally long columns."""
        arrays = [pa.array(columns[field.name], type=field.type) for field in self.schema]
        self._writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=self.schema))
        self.rows += len(arrays[0])

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._writer.close()
