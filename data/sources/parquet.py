"""Parquet files with a column of images and, if there is one, a column of labels.

`data.sources.columns` chooses the columns. `parquet:PATH?image=NAME&label=NAME` names them. In the Hugging
Face layout they are `image`, a struct of bytes and path, and `label`.

Files that are named like splits (`train-00000-of-00001.parquet`, `test/0.parquet`), and rows with a column
`split`, serve the split that is asked for.

Listing reads only paths and labels. Reading images reads only the wanted pages, never a whole file. A row is
found by file, row group and row number. Reading is fast only in that order.
"""

from __future__ import annotations

import glob
import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, pairwise
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from data.errors import DataError
from data.secrets import scrub
from data.sources import UNKNOWN_TIME, Entry, Listing, Pixels, Source, Unreadable
from data.sources.columns import Columns, choose
from data.sources.files import is_url, local_path, modified, open_filesystem, split_options
from data.sources.layout import composed
from data.sources.splits import beside_train, serve, split_of
from data.types import Split

_ROWS = 64  # rows decoded at once; this bounds memory for row groups of any size
_BUFFER = 1 << 20  # bytes read ahead in each column
_GROUP = 4096  # largest number of rows of a row group that are read as one batch


class ParquetFiles:
    """The Parquet files at one place: a file, a folder or a glob, as a local path or any fsspec URL.

    Args:
        spec: name of the source in error messages.
        place: path or URL.
    """

    def __init__(self, spec: str, place: str) -> None:
        self.spec = spec
        self.place = place if is_url(place) else local_path(place)
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
                raise DataError(f"{self.spec} can't be listed: {scrub(str(error))}") from error
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
            raise DataError(f"{self.spec}: {path} can't be read: {scrub(str(error))}") from error

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
        place, options = split_options(place, {"image": (), "label": ()})
        self._image, self._label = options.get("image"), options.get("label")
        self._files = ParquetFiles(spec, place)
        self._columns_of: dict[str, Columns] = {}

    def stamp(self) -> str | None:
        """Names, sizes and times of the files."""
        return self._files.stamp()

    def _list(self) -> Listing:
        rows = self._all_rows
        if not rows:
            raise DataError(f"{self.spec}: no rows in these files")
        mine, remarks = self._of_role(rows)
        label_of, classes = _labels([row.label for row in mine], self._names, self.spec)
        times = Counter(row.name for row in rows)
        entries = []
        for row in mine:
            label = None if row.label is None else label_of.get(row.label)
            entries.append(Entry(row.uri(times), label, row.size, row.mtime, row.place))
        return Listing(entries, classes, guesses=(*remarks, *self._guesses))

    @cached_property
    def _all_rows(self) -> list[_Row]:
        """All rows of all files, with the split that the file's name or the row says."""
        rows: list[_Row] = []
        self._names: tuple[str, ...] | None = None
        self._guesses: tuple[str, ...] = ()
        for file, (path, size, mtime) in self._files.files().items():
            opened = self._files.parquet(path)
            schema = opened.schema_arrow
            columns = self._chosen(path)
            if self._names is not None and columns.names is not None and columns.names != self._names:
                raise DataError(
                    f"{self.spec}: {path} names other classes than the files before it; "
                    "all files must have the same classes"
                )
            self._names = self._names or columns.names
            self._guesses = tuple(dict.fromkeys((*self._guesses, *columns.guesses)))
            image = schema.field(columns.image).type
            has_path = pa.types.is_struct(image) and image.get_field_index("path") >= 0
            others = [name for name in (columns.label, columns.split) if name is not None]
            wanted = [*([f"{columns.image}.path"] if has_path else []), *others]
            of_file = split_of_file(file)
            row = 0
            for group in range(opened.num_row_groups):
                count = opened.metadata.row_group(group).num_rows
                table = self._columns(path, opened, group, wanted)
                none = [None] * count
                paths = table[columns.image].combine_chunks().field("path").to_pylist() if has_path else none
                labels = none if columns.label is None else _whole(table[columns.label], path, self.spec)
                said = none if columns.split is None else table[columns.split].to_pylist()
                for within, (name, label, split) in enumerate(zip(paths, labels, said, strict=True)):
                    place = (path, group, within)
                    of_row = of_file if split is None else split_of(split) or split
                    rows.append(_Row(f"{file}#{row}", name or None, label, of_row, size, mtime, place))
                    row += 1
        return rows

    def _chosen(self, path: str) -> Columns:
        if path not in self._columns_of:
            schema = self._files.parquet(path).schema_arrow
            label = None if self.role == "unlabelled" else self._label
            self._columns_of[path] = choose(schema, f"{self.spec}: {path}", self._image, label)
        return self._columns_of[path]

    def _of_role(self, rows: list[_Row]) -> tuple[list[_Row], list[str]]:
        """The rows of the split that serves the role, and sentences about this for the user."""
        there = {row.split for row in rows}
        if None in there or len(there) < 2:  # a single split serves every role, as it always did
            named = sorted(split for split in there if split is not None)
            self._there: set[str] = set()
            partly = f"only some files or rows say their split ({', '.join(named)}), so all are taken"
            return rows, [partly] if named and None in there else []
        self._there = {str(split) for split in there}
        served = serve(self.role, self._there)
        if served is None:
            raise DataError(
                f"{self.spec} has the splits {', '.join(sorted(self._there))}, and none is for {self.role}; "
                "name the files, or a glob"
            )
        mine = [row for row in rows if row.split == served]
        text = f"{len(mine):,} of {len(rows):,} rows say that they are of the split {served!r}: {self.role}"
        return mine, [text]

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits that files or rows say, besides train."""
        self.entries()
        return beside_train(self._there)

    def find(self, uris: Sequence[str]) -> list[Entry]:
        """Find the entries with these uris, in the given order, in all splits."""
        rows = self._all_rows
        times = Counter(row.name for row in rows)
        known = {row.uri(times): Entry(row.uri(times), None, row.size, row.mtime, row.place) for row in rows}
        return self._found(known, uris)

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

    def read(self, entries: Sequence[Entry]) -> Iterator[bytes | Pixels | Unreadable]:
        """The bytes of each row's image, or why the row has none."""
        for (path, group), run in groupby(entries, key=lambda entry: entry.place[:2]):
            rows = [entry.place[2] for entry in run]
            if all(a < b for a, b in pairwise(rows)):
                yield from self._rows(path, group, rows)
            else:
                wanted = sorted(set(rows))
                found = dict(zip(wanted, self._rows(path, group, wanted), strict=True))
                yield from (found[row] for row in rows)

    def _rows(self, path: str, group: int, rows: list[int]) -> Iterator[bytes | Unreadable]:
        """Read rows of a row group, given in ascending order.

        This goes through the image column once, up to the last wanted row.
        """
        opened = self._files.parquet(path)
        column = self._chosen(path).image
        struct = pa.types.is_struct(opened.schema_arrow.field(column).type)
        batches = opened.iter_batches(
            _ROWS, row_groups=[group], columns=[f"{column}.bytes" if struct else column]
        )
        start = position = 0
        try:
            while position < len(rows):
                image = next(batches).column(0)
                if struct:
                    image = image.field("bytes")
                while position < len(rows) and rows[position] < start + len(image):
                    yield image[rows[position] - start].as_py() or self._nothing(path, group, rows[position])
                    position += 1
                start += len(image)
        except StopIteration:
            raise DataError(
                f"{self.spec}: {path}, row group {group} has fewer rows than when it was listed; run again"
            ) from None
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.spec}: {path}, row group {group} is damaged: {error}") from error

    def _nothing(self, path: str, group: int, row: int) -> bytes | Unreadable:
        """The content of a row without bytes: nothing, or why it has none."""
        column = self._chosen(path).image
        image = self._files.parquet(path).schema_arrow.field(column).type
        if pa.types.is_struct(image) and image.get_field_index("path") >= 0:
            table = self._columns(path, self._files.parquet(path), group, [f"{column}.path"])
            named = table[column].combine_chunks().field("path")[row].as_py()
            if named:
                return Unreadable(
                    f"its bytes are null and only its path is given ({named!r}); write the files' bytes into "
                    "the column, or give the folder of the files"
                )
        return b""


@dataclass(frozen=True, slots=True)
class _Row:
    number: str
    name: str | None
    label: int | str | None
    split: str | None
    size: int
    mtime: int
    place: tuple[str, int, int]

    def uri(self, times: Counter[str | None]) -> str:
        if self.name is None:
            return self.number
        return self.name if times[self.name] == 1 else f"{self.name}#{self.number}"


def split_of_file(name: str) -> str | None:
    """The split that a file's path says: `data/train-00000-of-00001.parquet` or `test/0000.parquet`."""
    *folders, file = name.split("/")
    stem = re.split(r"[-_.]", file)[0]
    return next((split for part in (stem, *reversed(folders)) if (split := split_of(part))), None)


def _whole(column: pa.ChunkedArray, path: str, spec: str) -> list[int | str | None]:
    """Labels as integers or strings. Floats must be whole numbers; pandas makes these if labels are missing.

    Raises:
        DataError: a label is a fraction.
    """
    values: list[Any] = column.to_pylist()
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not pa.types.is_floating(kind):
        return [composed(value) if isinstance(value, str) else value for value in values]
    whole: list[int | str | None] = []
    for value in values:
        if value is None or math.isnan(value):
            whole.append(None)
        elif value.is_integer():
            whole.append(int(value))
        else:
            raise DataError(f"{spec}: {path}: label {value} is not a whole number, so it names no class")
    return whole


def _named(path: str) -> bool:
    name = os.path.basename(path)
    return name.lower().endswith((".parquet", ".parq")) and not name.startswith((".", "_"))


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
