"""Read and write Parquet: whole tables of scalars, and streams of vectors that are never in memory twice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data.errors import ArtifactError
from data.schemas import schema_of

ROWS_PER_PART = 1 << 18
_PLAIN = {"use_dictionary": False, "compression": "none", "write_statistics": False}
"""Vectors do not compress and do not repeat. Plain pages are several times faster to write and to read."""


def write_table(path: Path, columns: Mapping[str, Any], schema: pa.Schema | Mapping[str, str]) -> int:
    """Write columns as one Parquet file.

    Args:
        path: the file.
        columns: name -> values, all equally long.
        schema: one of `data.schemas`, or column -> name of an Arrow type, such as {"index": "int64"}.

    Returns:
        The number of rows.

    Raises:
        ArtifactError: a column of the schema is missing; the message names it.
    """
    if isinstance(schema, Mapping):
        schema = schema_of(schema)
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
        ArtifactError: the file is missing, or a column of the schema is missing or has another type.
    """
    try:
        table = _parts(path) if path.is_dir() else pq.ParquetFile(path).read()
    except (OSError, pa.ArrowInvalid) as error:
        raise ArtifactError(f"{path} can't be read: {error}") from None
    for field in schema or ():
        if field.name not in table.column_names or table.schema.field(field.name).type != field.type:
            raise ArtifactError(
                f"{path}: column {field.name} of type {field.type} is expected, "
                f"but the file has {table.schema}"
            )
    return table


def _parts(folder: Path) -> pa.Table:
    import pyarrow.dataset as ds  # imports pandas, which takes most of a second

    files = [str(file) for file in sorted(folder.glob("part-*.parquet"))]
    return ds.dataset(files, format="parquet").to_table()


def positions(index: NDArray[np.int64], wanted: NDArray[np.int64], of: str) -> NDArray[np.int64]:
    """Find the positions of the wanted indices in `index`. All joins of tables use this function.

    Args:
        index: (N,) int64, ascending, each once.
        wanted: (n,) int64, in any order.
        of: what the rows are, for the error message.

    Returns:
        (n,) int64 positions: `index[positions] == wanted`.

    Raises:
        ArtifactError: a wanted index is missing.
    """
    found = np.searchsorted(index, wanted)
    missing = wanted[index[np.minimum(found, len(index) - 1)] != wanted] if len(index) else wanted
    if len(missing):
        raise ArtifactError(
            f"{of}: there is no row for index {missing[0]} ({len(missing)} missing in all); "
            "run again to recompute it"
        )
    return np.asarray(found, np.int64)


def column(table: pa.Table, name: str) -> NDArray[Any]:
    """A scalar column as a numpy array. Nulls of an integer column become -1."""
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
    """A context manager that streams blocks of (index, vector) to `part-*.parquet`. Memory holds one block.

    Args:
        folder: the folder of the parts.
        schema: `schemas.features(...)` or `schemas.probabilities(...)`: index and one fixed-size list.
        rows_per_part: number of rows after which a new file starts.
    """

    def __init__(self, folder: Path, schema: pa.Schema, rows_per_part: int = ROWS_PER_PART) -> None:
        self.folder, self.schema, self.rows_per_part = folder, schema, rows_per_part
        self.rows = 0
        self._in_part = self._parts = 0
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> Self:
        return self

    def write(self, index: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Append a block: index (B,) int64 and vectors (B, D) float32."""
        if self._writer is None or self._in_part + len(index) > self.rows_per_part > len(index):
            self._next_part()
        assert self._writer is not None
        name = self.schema.names[1]
        field = self.schema.field(name)
        flat = pa.array(np.ascontiguousarray(vectors, dtype=np.float32).reshape(-1))
        values = pa.FixedSizeListArray.from_arrays(flat, type=field.type)
        self._writer.write_batch(
            pa.RecordBatch.from_arrays([pa.array(index, pa.int64()), values], schema=self.schema)
        )
        self.rows += len(index)
        self._in_part += len(index)

    def _next_part(self) -> None:
        if self._writer is not None:
            self._writer.close()
        path = self.folder / f"part-{self._parts:05d}.parquet"
        self._writer = pq.ParquetWriter(path, self.schema, **_PLAIN)
        self._parts += 1
        self._in_part = 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._writer is None and error is None:
            self._next_part()
        if self._writer is not None:
            self._writer.close()


def rows_of_parts(folder: Path) -> int:
    """The number of rows of all `part-*.parquet` of a folder, without reading them."""
    return sum(pq.read_metadata(file).num_rows for file in folder.glob("part-*.parquet"))


def read_vectors(folder: Path) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Read all vectors of a features or probabilities artifact into one array, part by part.

    Returns:
        index (N,) int64 in ascending order, and vectors (N, D) float32 in the same order.

    Raises:
        ArtifactError: the folder has no `part-*.parquet`.
    """
    files = sorted(folder.glob("part-*.parquet"))
    if not files:
        raise ArtifactError(f"{folder} has no part-*.parquet")
    rows = rows_of_parts(folder)
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


def iterate_vectors(
    folder: Path, rows: int = 1 << 15
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Iterate over a features or probabilities artifact in file order, in blocks of at most `rows` rows.

    Yields:
        index (B,) int64 and vectors (B, D) float32.
    """
    for file in sorted(folder.glob("part-*.parquet")):
        with pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20) as parquet:
            for batch in parquet.iter_batches(batch_size=rows):
                yield batch.column(0).to_numpy(zero_copy_only=False), _matrix(batch.column(1))


def iterate_in_step(
    folders: Sequence[Path], rows: int = 1 << 15
) -> Iterator[tuple[NDArray[np.int64], list[NDArray[np.float32]]]]:
    """Iterate over several artifacts of vectors of the same images at once, in blocks of at most `rows` rows.

    Yields:
        index (B,) int64, and for each folder its vectors (B, D) float32.

    Raises:
        ArtifactError: the folders hold different images, or the same ones in another order.
    """
    streams = [iterate_vectors(folder, rows) for folder in folders]
    blocks = [(np.zeros(0, np.int64), np.zeros((0, 0), np.float32))] * len(folders)
    while True:
        for number, stream in enumerate(streams):
            if not len(blocks[number][0]):
                blocks[number] = next(stream, blocks[number])
        size = min(len(index) for index, _ in blocks)
        index = blocks[0][0][:size]
        left = any(len(index) for index, _ in blocks)
        if not size and not left:
            return
        if not size or any(not np.array_equal(index, other[:size]) for other, _ in blocks):
            raise ArtifactError(f"{folders[0]} and {folders[-1]} are of different images; run again")
        yield index, [vectors[:size] for _, vectors in blocks]
        blocks = [(other[size:], vectors[size:]) for other, vectors in blocks]


class AssignmentWriter:
    """A context manager that streams assignments to `part-00000.parquet`. It is used like `VectorWriter`."""

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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._writer.close()
