"""Features made elsewhere: vectors in Parquet files, joined to the manifest's images by content or by uri, streamed.

Columns: `vector`, a list of floats of one length; `sha256` of the image's bytes, or else `uri` as in the manifest, and
with it `split` where images of several splits go by the same uri. Rows of other images are passed over.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from data.errors import DataError
from data.sources import UNKNOWN_TIME
from data.sources.parquet import ParquetFiles
from data.tables import column

_ROWS = 4096
_BLOCK = 1 << 24

Known = dict[str, list[Any]]
"""Path -> bytes, mtime and sha256 of a file, as remembered."""


class ExternalFeatures:
    """Vectors that somebody else's program made.

    Args:
        spec: `parquet:PATH`, a file, folder or glob; PATH may be any fsspec URL.

    Raises:
        DataError: there is no Parquet file.
    """

    def __init__(self, spec: str) -> None:
        self.spec = f"pretext.features {spec}"
        self._files = ParquetFiles(self.spec, spec.removeprefix("parquet:"))
        self._listed = list(self._files.files().values())

    def stamp(self) -> str | None:
        """Names, sizes and times of the files; None where the place doesn't tell times."""
        return self._files.stamp()

    def content(self, known: Mapping[str, list[Any]]) -> tuple[list[str], Known]:
        """What the files hold, wherever they lie and whatever they are called.

        Args:
            known: what an earlier call remembered; files of the same path, size and time are not read again.

        Returns:
            sha256 of each file, sorted; and what is to be remembered.
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
        """Length D of the first vector.

        Raises:
            DataError: a file hasn't the columns, or there is no vector.
        """
        for path, _, _ in self._listed:
            for batch in self._batches(path):
                if len(batch):
                    return int(self._matrix(batch.column("vector")[:1], path, None).shape[1])
        raise DataError(f"{self.spec}: no rows in these files")

    def blocks(
        self, manifest: pa.Table, splits: tuple[str, ...]
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """The vectors of a manifest's images, in the order of the files; memory holds one block.

        Args:
            manifest: schema `MANIFEST`, all of it: whether a uri is one image's alone shows only there.
            splits: whose images.

        Yields:
            index (B,) and vectors (B, D) float32, finite; every image once in all.

        Raises:
            DataError: a file hasn't the columns; an image has no vector, or two; a vector holds a value that is not finite, or is of another length
                than the others; a uri stands for several images.
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
                raise DataError(f"{self.spec}: {path} names images by {' and '.join(key)}, the file before it by {' and '.join(first)}; they must agree")  # fmt: skip
            for batch in self._batches(path):
                names = zip(*(batch.column(name).to_pylist() for name in key), strict=True)
                pairs = [(at, row) for at, name in enumerate(names) for row in rows_of.get(name, ())]
                if not pairs:
                    continue
                at, row = np.array(pairs, np.int64).T
                ascending = np.sort(row)
                twice = np.concatenate([row[seen[row]], ascending[1:][ascending[1:] == ascending[:-1]]])
                if len(twice):
                    raise DataError(f"{self.spec}: two vectors for image {uri[twice[0]]!r}, the second in {path}; keep one row an image")  # fmt: skip
                seen[row] = True
                vectors = self._matrix(batch.column("vector").take(pa.array(at)), path, dim)
                dim = vectors.shape[1]
                wrong = ~np.isfinite(vectors).all(axis=1)
                if wrong.any():
                    raise DataError(f"{self.spec}: the vector of image {uri[row[wrong.argmax()]]!r} in {path} holds values that are no finite float32")  # fmt: skip
                yield index[row], vectors
        missing = np.flatnonzero(wanted & ~seen)
        if len(missing):
            sha256 = column(manifest, "sha256")[missing[0]]
            raise DataError(
                f"{self.spec}: {len(missing)} of {int(wanted.sum())} images ({', '.join(splits)}) have no vector, the first "
                f"is {uri[missing[0]]!r} with sha256 {sha256}; add a row for each"
            )

    def _key(self, path: str) -> tuple[str, ...]:
        """Columns that name an image."""
        schema = self._files.parquet(path).schema_arrow
        if "vector" not in schema.names or not {"sha256", "uri"} & set(schema.names):
            raise DataError(
                f"{self.spec}: {path} has columns {', '.join(schema.names)}; it needs vector, and sha256 or uri"
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
        """Key -> rows of the manifest: those that are wanted. Several rows have one sha256 where they are equal."""
        names = list(zip(*(manifest[name].to_pylist() for name in key), strict=True))
        rows_of: dict[tuple[str, ...], list[int]] = {}
        for row in np.flatnonzero(wanted).tolist():
            rows_of.setdefault(names[row], []).append(row)
        if key == ("uri",):
            content: dict[str, str] = {}
            for (uri,), sha256 in zip(names, manifest["sha256"].to_pylist(), strict=True):
                if content.setdefault(uri, sha256) != sha256 and (uri,) in rows_of:
                    raise DataError(f"{self.spec}: uri {uri!r} stands for several images, in train, unlabelled or test; add a column sha256 or split")  # fmt: skip
        return rows_of

    def _batches(self, path: str) -> Iterator[pa.RecordBatch]:
        try:
            yield from self._files.parquet(path).iter_batches(_ROWS, columns=["vector", *self._key(path)])
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.spec}: {path} is damaged: {error}") from error

    def _matrix(self, values: pa.Array, path: str, dim: int | None) -> NDArray[np.float32]:
        """Lists as (B, D) float32; what is missing in a list, or too large for float32, is not finite."""
        lengths = pc.unique(pc.list_value_length(values))
        expected = lengths[0].as_py() if dim is None else dim
        if values.null_count or len(lengths) != 1 or not expected or lengths[0].as_py() != expected:
            found = ", ".join(sorted(str(length) for length in lengths))
            raise DataError(f"{self.spec}: {path}: vectors of length {found}; all must have the same{'' if dim is None else f', {dim} as before'}")  # fmt: skip
        flat = values.flatten().to_numpy(zero_copy_only=False)
        with np.errstate(over="ignore"):
            return np.asarray(flat, dtype=np.float32).reshape(len(values), expected)
