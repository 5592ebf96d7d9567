"""Parquet in the Hugging Face layout: a column `image` and an optional column `label`.

`image` is a struct of bytes and path, or plain binary. `label` is an integer or a string.

Listing reads only paths and labels. Reading images reads only the wanted pages, never a whole file. A row is
found by file, row group and row number. Reading is fast only in that order.
"""

from __future__ import annotations

import glob
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from data.errors import DataError
from data.sources import UNKNOWN_TIME, Entry, Listing, Pixels, Source
from data.sources.files import is_url, modified, open_filesystem
from data.types import Split

_ROWS = 64  # rows decoded at once; this bounds memory for row groups of any size
_BUFFER = 1 << 20  # bytes read ahead in each column
_GROUP = 4096  # largest number of rows of a row group that are read as one batch


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


class ParquetFiles:
    """The Parquet files at one place: a file, a folder or a glob, as a local path or any fsspec URL.

    Args:
        spec: name of the source in error messages.
        place: path or URL.
    """

    def __init__(self, spec: str, place: str) -> None:
        self.spec = spec
        self.place = place if is_url(place) else os.path.abspath(os.path.expanduser(place))
        self._opened: tuple[str, pq.ParquetFile] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None}

    def files(self) -> dict[str, tuple[str, int, int]]:
        """The files as name -> (path, size in bytes, mtime), sorted by name.

        A name is relative to the folder that all files have in common.

        Raises:
            DataError: there is no Parquet file.
        """
        found: dict[str, tuple[str, int, int]] = {}
        if is_url(self.place):
            filesystem, path = open_filesystem(self.place)
            try:
                if glob.has_magic(path):
                    infos = filesystem.glob(path, detail=True)
                elif filesystem.isdir(path):
                    infos = {
                        name: info
                        for name, info in filesystem.find(path, detail=True).items()
                        if _named(name)
                    }
                else:
                    infos = {path: filesystem.info(path)}
            except FileNotFoundError:
                infos = {}
            except Exception as error:  # each protocol raises different errors
                raise DataError(f"{self.spec} can't be listed: {error}") from error
            for name, info in infos.items():
                if info.get("type") != "directory":
                    found[name] = (name, int(info.get("size") or 0), modified(info))
        else:
            if os.path.isdir(self.place):
                names = glob.glob(os.path.join(glob.escape(self.place), "**", "*"), recursive=True)
                names = [name for name in names if _named(name)]
            else:
                names = [self.place] if os.path.exists(self.place) else glob.glob(self.place, recursive=True)
            for name in names:
                if os.path.isfile(name):
                    status = os.stat(name)
                    found[name] = (name, status.st_size, status.st_mtime_ns)
        if not found:
            raise DataError(
                f"{self.spec}: no Parquet file there; give a file, a folder with *.parquet, or a glob"
            )
        root = os.path.commonpath([os.path.dirname(name) for name in found])
        return {os.path.relpath(name, root or "."): found[name] for name in sorted(found)}

    def stamp(self) -> str | None:
        """Names, sizes and times of the files, or None if the place does not report times."""
        files = self.files()
        return None if any(mtime == UNKNOWN_TIME for _, _, mtime in files.values()) else json.dumps(files)

    def raw(self, path: str) -> IO[bytes]:
        """Open a file for reading its bytes. The caller closes it.

        Raises:
            DataError: the file can't be read.
        """
        try:
            if is_url(self.place):
                opened: IO[bytes] = open_filesystem(self.place)[0].open(path, "rb")
                return opened
            return open(path, "rb")
        except OSError as error:
            raise DataError(f"{self.spec}: {path} can't be read: {error}") from error

    def parquet(self, path: str) -> pq.ParquetFile:
        """Open a file as Parquet. The file that was opened last stays open and is reused.

        Raises:
            DataError: the file is not readable as Parquet.
        """
        if self._opened is None or self._opened[0] != path:
            try:
                # Without pre_buffer and with a buffer size, columns are streamed. A row group may be the
                # whole file, so it must not be loaded at once.
                handle = self.raw(path) if is_url(self.place) else path
                self._opened = (path, pq.ParquetFile(handle, pre_buffer=False, buffer_size=_BUFFER))
            except (pa.ArrowException, OSError) as error:
                raise DataError(f"{self.spec}: {path} is not readable as Parquet: {error}") from error
        return self._opened[1]


class ParquetSource(Source):
    """Images in the rows of one or more Parquet files.

    A row's uri is its `image.path`. It is `FILE#ROW` if the path is missing, and `PATH#FILE#ROW` if the path
    is not unique.
    """

    random_access = False

    def __init__(self, spec: str, place: str, role: Split = "train") -> None:
        super().__init__(spec, place, role)
        self._files = ParquetFiles(spec, place)

    def stamp(self) -> str | None:
        """Names, sizes and times of the files."""
        return self._files.stamp()

    def _list(self) -> Listing:
        rows: list[tuple[str, str | None, int | str | None, int, int, tuple[str, int, int]]] = []
        names: tuple[str, ...] | None = None
        for file, (path, size, mtime) in self._files.files().items():
            opened = self._files.parquet(path)
            schema = opened.schema_arrow
            self._check_columns(path, schema)
            declared = _class_names(schema)
            if names is not None and declared is not None and declared != names:
                raise DataError(
                    f"{self.spec}: {path} names other classes than the files before it; "
                    "all files must have the same classes"
                )
            names = names or declared
            image = schema.field("image").type
            has_path = pa.types.is_struct(image) and image.get_field_index("path") >= 0
            columns = [*(["image.path"] if has_path else []), *(["label"] if "label" in schema.names else [])]
            row = 0
            for group in range(opened.num_row_groups):
                count = opened.metadata.row_group(group).num_rows
                table = self._columns(path, opened, group, columns)
                paths = (
                    table["image"].combine_chunks().field("path").to_pylist() if has_path else [None] * count
                )
                labels = table["label"].to_pylist() if "label" in columns else [None] * count
                for within, (name, label) in enumerate(zip(paths, labels, strict=True)):
                    rows.append((f"{file}#{row}", name or None, label, size, mtime, (path, group, within)))
                    row += 1
        if not rows:
            raise DataError(f"{self.spec}: no rows in these files")
        label_of, classes = _labels([label for _, _, label, *_ in rows], names, self.spec)
        times = Counter(name for _, name, *_ in rows)
        entries = []
        for numbered, name, label, size, mtime, place in rows:
            uri = numbered if name is None else name if times[name] == 1 else f"{name}#{numbered}"
            entries.append(Entry(uri, None if label is None else label_of.get(label), size, mtime, place))
        return Listing(entries, classes)

    def _check_columns(self, path: str, schema: pa.Schema) -> None:
        if "image" not in schema.names:
            raise DataError(
                f"{self.spec}: {path} has no column 'image', only {', '.join(schema.names)}; "
                "rename the column with the images' bytes to 'image'"
            )
        image = schema.field("image").type
        if pa.types.is_struct(image):
            position = image.get_field_index("bytes")
            right = position >= 0 and _is_binary(image.field(position).type)
        else:
            right = _is_binary(image)
        if not right:
            raise DataError(
                f"{self.spec}: {path}: column 'image' is {image}, not binary or a struct of bytes and path"
            )
        if "label" in schema.names:
            label = schema.field("label").type
            value = label.value_type if pa.types.is_dictionary(label) else label
            text = (
                pa.types.is_string(value) or pa.types.is_large_string(value) or pa.types.is_string_view(value)
            )
            if not (
                text or pa.types.is_integer(value) or pa.types.is_boolean(value) or pa.types.is_null(value)
            ):
                raise DataError(
                    f"{self.spec}: {path}: column 'label' is {label}; it must be integers or strings"
                )

    def _columns(self, path: str, opened: pq.ParquetFile, group: int, columns: list[str]) -> pa.Table:
        try:
            return opened.read_row_group(group, columns=columns)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.spec}: {path}, row group {group} is damaged: {error}") from error

    def batches(self, entries: Sequence[Entry], size: int) -> Iterator[list[Entry]]:
        """Make one batch per row group, because splitting a row group would decompress it twice.

        Very large row groups are still split.
        """
        ordered = sorted(entries, key=lambda entry: entry.place)
        for _, group in groupby(ordered, key=lambda entry: entry.place[:2]):
            rows = list(group)
            for start in range(0, len(rows), max(size, _GROUP)):
                yield rows[start : start + max(size, _GROUP)]

    def read(self, entries: Sequence[Entry]) -> Iterator[bytes | Pixels]:
        """The bytes of each row's image, or b"" if the row has none."""
        for (path, group), run in groupby(entries, key=lambda entry: entry.place[:2]):
            rows = [entry.place[2] for entry in run]
            if all(a < b for a, b in pairwise(rows)):
                yield from self._rows(path, group, rows)
            else:
                wanted = sorted(set(rows))
                found = dict(zip(wanted, self._rows(path, group, wanted), strict=True))
                yield from (found[row] for row in rows)

    def _rows(self, path: str, group: int, rows: list[int]) -> Iterator[bytes]:
        """Read rows of a row group, given in ascending order.

        This goes through the image column once, up to the last wanted row.
        """
        opened = self._files.parquet(path)
        struct = pa.types.is_struct(opened.schema_arrow.field("image").type)
        batches = opened.iter_batches(
            _ROWS, row_groups=[group], columns=["image.bytes" if struct else "image"]
        )
        start = position = 0
        try:
            while position < len(rows):
                image = next(batches).column(0)
                if struct:
                    image = image.field("bytes")
                while position < len(rows) and rows[position] < start + len(image):
                    yield image[rows[position] - start].as_py() or b""
                    position += 1
                start += len(image)
        except StopIteration:
            raise DataError(
                f"{self.spec}: {path}, row group {group} has fewer rows than when it was listed; run again"
            ) from None
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.spec}: {path}, row group {group} is damaged: {error}") from error


def _named(path: str) -> bool:
    name = os.path.basename(path)
    return name.endswith((".parquet", ".parq")) and not name.startswith((".", "_"))


def _class_names(schema: pa.Schema) -> tuple[str, ...] | None:
    """The class names of a Hugging Face ClassLabel, from the schema's metadata. None if there are none."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(str(name) for name in features["label"]["names"])
    except (KeyError, TypeError, ValueError):
        return None


def _labels(
    values: list[int | str | None], names: tuple[str, ...] | None, spec: str
) -> tuple[dict[int | str, int], tuple[str, ...] | None]:
    """Make a map from stored label to position in the classes -> (map, classes).

    A negative number means that there is no label. Published test sets use it.

    Raises:
        DataError: a label is not among the named classes, or some labels are numbers and others strings.
    """
    used = {value for value in values if value is not None and not (isinstance(value, int) and value < 0)}
    if not used:
        return {}, None
    numbers = sorted(value for value in used if isinstance(value, int))
    texts = sorted(value for value in used if isinstance(value, str))
    if numbers and texts:
        raise DataError(f"{spec}: labels are numbers in some files and strings in others; use one of the two")
    if names is None:
        ordered: list[int | str] = [*map(int, numbers), *texts]
        return {value: position for position, value in enumerate(ordered)}, tuple(map(str, ordered))
    if texts:
        unnamed = [text for text in texts if text not in names]
        known: dict[int | str, int] = {name: position for position, name in enumerate(names)}
    else:
        unnamed = [str(number) for number in numbers if number >= len(names)]
        known = {position: position for position in range(len(names))}
    if unnamed:
        raise DataError(
            f"{spec}: label {unnamed[0]} is not among the {len(names)} classes named in the metadata"
        )
    return known, names
