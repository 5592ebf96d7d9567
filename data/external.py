"""Features computed by another program: vectors in Parquet files, joined to the manifest's images.

The columns are:

    vector    a list of floats; all vectors have the same length
    sha256    hash of the image's bytes
    uri       the image's uri in the manifest; used if there is no sha256
    split     the image's split; used with uri, and needed only if a uri occurs in several splits

Rows for images that are not in the manifest are skipped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from data.errors import DataError
from data.files import read_sealed
from data.sources import UNKNOWN_TIME
from data.sources.parquet import ParquetFiles
from data.tables import column

_ROWS = 4096
_BLOCK = 1 << 24

Known = dict[str, list[Any]]
"""What an earlier run remembered: path -> [size in bytes, mtime, sha256] of a file."""


def known_files(path: Path) -> Known:
    """Read what an earlier run remembered; nothing if the file is missing or damaged."""
    try:
        found = json.loads(read_sealed(path) or b"{}")
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


class ExternalFeatures:
    """Vectors that another program computed.

    Args:
        spec: `parquet:PATH`. PATH is a file, a folder or a glob, and may be any fsspec URL.

    Raises:
        DataError: there is no Parquet file.
    """

    def __init__(self, spec: str) -> None:
        self.spec = f"pretext.features {spec}"
        self._files = ParquetFiles(self.spec, spec.removeprefix("parquet:"))
        self._listed = list(self._files.files().values())

    def stamp(self) -> str | None:
        """Names, sizes and times of the files, or None if the place does not report times."""
        return self._files.stamp()

    def content(self, known: Mapping[str, list[Any]]) -> tuple[list[str], Known]:
        """Hash the files' content. The hashes do not depend on where the files are or what they are called.

        Args:
            known: what an earlier call returned. A file with the same path, size and time is not read again.

        Returns:
            The sha256 of each file, sorted; and what the next call should get as `known`.
        """
        found: Known = {}
        for path, size, mtime in self._listed:
            earlier = known.get(path, [None])
            if mtime != UNKNOWN_TIME and earlier[:2] == [size, mtime]:
                found[path] = earlier
                continue
            digest = hashlib.sha256()
            with self._files.raw(path) as file:
                while block := file.read(_BLOCK):
                    digest.update(block)
            found[path] = [size, mtime, digest.hexdigest()]
        return sorted(str(sha256) for _, _, sha256 in found.values()), found

    def width(self) -> int:
        """The length D of the first vector.

        Raises:
            DataError: a file lacks the columns, or there is no vector.
        """
        for path, _, _ in self._listed:
            for batch in self._batches(path):
                if len(batch):
                    return int(self._matrix(batch.column("vector")[:1], path, None).shape[1])
        raise DataError(f"{self.spec}: no rows in these files")

    def blocks(
        self, manifest: pa.Table, splits: tuple[str, ...]
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Stream the vectors of a manifest's images in the order of the files. Memory holds one block.

        Args:
            manifest: the complete manifest (schema `MANIFEST`). All rows are needed to see whether a uri
                names only one image.
            splits: the splits whose images are wanted.

        Yields:
            index (B,) int64 and vectors (B, D) float32, all finite. Over all blocks, each image comes once.

        Raises:
            DataError: a file lacks the columns; an image has no vector or two; a vector has a value that is
                not finite or a length that differs from the others; or a uri names several images.
        """
        index, split, uri = column(manifest, "index"), column(manifest, "split"), column(manifest, "uri")
        wanted = np.isin(split.astype(str), splits)
        seen = np.zeros(len(index), bool)
        rows_of: dict[tuple[str, ...], list[int]] | None = None
        dim: int | None = None
        for path, _, _ in self._listed:
            key = self._key(path)
            if rows_of is None:
                first, rows_of = key, self._rows(manifest, key, wanted)
            elif key != first:
                raise DataError(
                    f"{self.spec}: {path} names images by {' and '.join(key)}, "
                    f"but the file before it by {' and '.join(first)}; all files must name them the same way"
                )
            for batch in self._batches(path):
                names = zip(*(batch.column(name).to_pylist() for name in key), strict=True)
                pairs = [(at, row) for at, name in enumerate(names) for row in rows_of.get(name, ())]
                if not pairs:
                    continue
                at, row = np.array(pairs, np.int64).T
                ascending = np.sort(row)
                twice = np.concatenate([row[seen[row]], ascending[1:][ascending[1:] == ascending[:-1]]])
                if len(twice):
                    raise DataError(
                        f"{self.spec}: image {uri[twice[0]]!r} has two vectors, the second in {path}; "
                        "keep one row per image"
                    )
                seen[row] = True
                vectors = self._matrix(batch.column("vector").take(pa.array(at)), path, dim)
                dim = vectors.shape[1]
                wrong = ~np.isfinite(vectors).all(axis=1)
                if wrong.any():
                    raise DataError(
                        f"{self.spec}: the vector of image {uri[row[wrong.argmax()]]!r} in {path} "
                        "has values that are not finite in float32"
                    )
                yield index[row], vectors
        missing = np.flatnonzero(wanted & ~seen)
        if len(missing):
            sha256 = column(manifest, "sha256")[missing[0]]
            raise DataError(
                f"{self.spec}: {len(missing)} of {int(wanted.sum())} images ({', '.join(splits)}) have no "
                f"vector; the first is {uri[missing[0]]!r} with sha256 {sha256}; add a row for each"
            )

    def _key(self, path: str) -> tuple[str, ...]:
        """The columns of a file that name an image."""
        schema = self._files.parquet(path).schema_arrow
        if "vector" not in schema.names or not {"sha256", "uri"} & set(schema.names):
            raise DataError(
                f"{self.spec}: {path} has the columns {', '.join(schema.names)}; "
                "it needs vector, and sha256 or uri"
            )
        kind = schema.field("vector").type
        listed = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
        if not (listed and pa.types.is_floating(kind.value_type)):
            raise DataError(f"{self.spec}: {path}: column 'vector' is {kind}, not a list of floats")
        if "sha256" in schema.names:
            return ("sha256",)
        return ("uri", "split") if "split" in schema.names else ("uri",)

    def _rows(
        self, manifest: pa.Table, key: tuple[str, ...], wanted: NDArray[np.bool_]
    ) -> dict[tuple[str, ...], list[int]]:
        """Map each key to the wanted rows of the manifest.

        A key can have several rows: identical images have the same sha256.
        """
        names = list(zip(*(manifest[name].to_pylist() for name in key), strict=True))
        rows_of: dict[tuple[str, ...], list[int]] = {}
        for row in np.flatnonzero(wanted).tolist():
            rows_of.setdefault(names[row], []).append(row)
        if key == ("uri",):
            content: dict[str, str] = {}
            for (uri,), sha256 in zip(names, manifest["sha256"].to_pylist(), strict=True):
                if content.setdefault(uri, sha256) != sha256 and (uri,) in rows_of:
                    raise DataError(
                        f"{self.spec}: uri {uri!r} names several images in train, unlabelled or test; "
                        "add a column sha256 or split"
                    )
        return rows_of

    def _batches(self, path: str) -> Iterator[pa.RecordBatch]:
        try:
            yield from self._files.parquet(path).iter_batches(_ROWS, columns=["vector", *self._key(path)])
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.spec}: {path} is damaged: {error}") from error

    def _matrix(self, values: pa.Array, path: str, dim: int | None) -> NDArray[np.float32]:
        """Lists as (B, D) float32. Missing values become NaN, values too large for float32 infinite."""
        lengths = pc.unique(pc.list_value_length(values))
        expected = lengths[0].as_py() if dim is None else dim
        if values.null_count or len(lengths) != 1 or not expected or lengths[0].as_py() != expected:
            found = ", ".join(sorted(str(length) for length in lengths))
            same = "the same length" if dim is None else f"length {dim}, like those before"
            raise DataError(f"{self.spec}: {path}: vectors of length {found}; all must have {same}")
        flat = values.flatten().to_numpy(zero_copy_only=False)
        with np.errstate(over="ignore"):
            return np.asarray(flat, dtype=np.float32).reshape(len(values), expected)
