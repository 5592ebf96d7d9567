"""Labels that a user keeps in a table beside the images: `csv:PATH` or `parquet:PATH`.

A row names an image and its label. The image is named by its uri, its path, its file name or the sha256 of
its file. A path may be absolute, or relative to any folder above the image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data.errors import ConfigError, DataError
from data.secrets import mask, reveal, scrub
from data.sources import UNKNOWN_TIME
from data.sources.files import modified, open_filesystem
from data.sources.layout import composed
from data.wording import counted

KEYS = ("sha256", "uri", "path", "file_name", "filename")
"""Columns that may name the image. The first one that the table has is used."""
_LABEL = "label"
_EXAMPLES = 3


@dataclass(frozen=True)
class OwnLabels:
    """The rows of a table of labels.

    Attributes:
        spec: the line of configuration, for messages.
        key: the column that names the images.
        rows: (name of the image, label) of each row that has a label, in the table's order.
        blank: number of rows without a label.
    """

    spec: str
    key: str
    rows: tuple[tuple[str, str], ...]
    blank: int


def read_labels(spec: str) -> OwnLabels:
    """Read a table of labels.

    Raises:
        ConfigError: the spec is neither csv: nor parquet:.
        DataError: the table can't be read, or lacks a column.
    """
    shown, place = mask(spec), reveal(spec)
    kind, _, path = place.partition(":")
    if kind not in ("csv", "parquet") or not path:
        raise ConfigError(f"data.labels = {shown!r}: write csv:PATH or parquet:PATH")
    try:
        filesystem, inside = open_filesystem(path)
        with filesystem.open(inside, "rb") as file:
            columns = _read_csv(file) if kind == "csv" else _read_parquet(file)
    except (OSError, ValueError) as error:
        raise DataError(f"data.labels: {shown} can't be read: {scrub(str(error))}") from None
    names = {name.strip().lower(): name for name in columns}
    key = next((name for name in KEYS if name in names), None)
    if key is None or _LABEL not in names:
        lacks = f"one of the columns {', '.join(KEYS)}" if key is None else "the column label"
        raise DataError(f"data.labels: {shown} lacks {lacks}; it has {', '.join(columns) or 'no columns'}")
    rows, blank = [], 0
    for name, value in zip(columns[names[key]], columns[names[_LABEL]], strict=True):
        label = _as_label(value, shown)
        if label is None or name is None or not str(name).strip():
            blank += 1
        else:
            rows.append((composed(str(name).strip()), label))
    if not rows:
        raise DataError(f"data.labels: {shown} has no row with a label")
    return OwnLabels(shown, key, tuple(rows), blank)


def _read_csv(file: Any) -> dict[str, list[Any]]:
    import csv
    import io

    text = file.read().decode("utf-8-sig")
    try:
        dialect: Any = csv.Sniffer().sniff(text.partition("\n")[0], delimiters=",;\t")
    except csv.Error:
        dialect = csv.excel
    reader = csv.DictReader(io.StringIO(text, newline=""), dialect=dialect)
    rows = list(reader)
    return {str(name): [row[name] for row in rows] for name in reader.fieldnames or ()}


def _read_parquet(file: Any) -> dict[str, list[Any]]:
    import pyarrow.parquet as pq

    table = pq.read_table(file)
    return {name: table[name].to_pylist() for name in table.column_names}


def _as_label(value: object, shown: str) -> str | None:
    """The class name of a cell, or None if it is empty. A whole number is written without a fraction."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, bool | int | str):
        text = composed(str(value).strip())
        whole = text.removesuffix(".0")
        return (whole if whole.lstrip("-").isdigit() else text) or None
    raise DataError(f"data.labels: {shown}: label {value!r} is neither a name nor a whole number")


def stamp(spec: str) -> str | None:
    """A text that changes whenever the table may have changed, or None if the place reports no time."""
    try:
        filesystem, inside = open_filesystem(reveal(spec).partition(":")[2])
        info = filesystem.info(inside)
    except Exception:  # each protocol raises different errors; reading the table says what is wrong
        return None
    time = modified(info)
    return None if time == UNKNOWN_TIME else f"{info.get('size')} {time}"


def match(
    labels: OwnLabels, uris: Sequence[str], sha256: Sequence[str], elsewhere: Mapping[str, Sequence[str]]
) -> list[str | None]:
    """Find the label of each image.

    Args:
        labels: the table.
        uris: uris of the images that may have labels.
        sha256: their content hashes.
        elsewhere: name of another source -> uris of its images, for a better message.

    Returns:
        The class name of each image, or None.

    Raises:
        DataError: a row names no image, or several; or two rows give an image different labels.
    """
    found: list[str | None] = [None] * len(uris)
    positions = _Positions(uris, sha256, by_content=labels.key == "sha256")
    unknown: list[str] = []
    unclear: list[str] = []
    conflicts: list[str] = []
    for name, label in labels.rows:
        at = positions.of(name)
        if not at:
            unknown.append(name)
        elif len(at) > 1 and labels.key != "sha256":
            unclear.append(f"{name} ({', '.join(uris[i] for i in at[:2])})")
        else:
            for i in at:
                if found[i] not in (None, label):
                    conflicts.append(f"{uris[i]} ({found[i]} and {label})")
                found[i] = label
    where = f"data.labels: {labels.spec}"
    if unknown:
        hint = "look at the column's names and at data.train"
        for source, others in elsewhere.items():
            if _Positions(others, [""] * len(others), by_content=False).of(unknown[0]):
                hint = f"these are images of {source}; labelled images belong to data.train"
        raise DataError(
            f"{where}: {len(unknown)} of {len(labels.rows)} rows name no image: {_some(unknown)}; {hint}"
        )
    if unclear:
        raise DataError(
            f"{where}: {len(unclear)} rows name several images: {_some(unclear)}; give longer paths, or the "
            "column sha256"
        )
    if conflicts:
        raise DataError(
            f"{where}: {counted(len(conflicts), 'row contradicts', 'rows contradict')} others: "
            f"{_some(conflicts)}"
        )
    return found


class _Positions:
    """Finds images by name: the whole uri, the end of a uri, or a longer path that ends with a uri."""

    def __init__(self, uris: Sequence[str], sha256: Sequence[str], *, by_content: bool) -> None:
        self._exact: dict[str, list[int]] = {}
        self._names: dict[str, list[int]] = {}
        self._by_content = by_content
        self._uris = [composed(uri) for uri in uris]
        for position, key in enumerate(sha256 if by_content else self._uris):
            self._exact.setdefault(key, []).append(position)
            self._names.setdefault(key.rpartition("/")[2], []).append(position)

    def of(self, name: str) -> list[int]:
        """Positions of the images with this name."""
        if self._by_content:
            return self._exact.get(name.lower(), [])
        name = name.replace("\\", "/").removeprefix("./")
        if name in self._exact:
            return self._exact[name]
        alike = self._names.get(name.rpartition("/")[2], [])
        ends = [i for i in alike if f"/{self._uris[i]}".endswith(f"/{name}")]
        return ends or [i for i in alike if f"/{name}".endswith(f"/{self._uris[i]}")]


def ordered(names: set[str]) -> tuple[str, ...]:
    """Class names in order: by value if all are whole numbers, else by name."""
    numbers = all(name.lstrip("-").isdigit() for name in names)
    return tuple(sorted(names, key=int) if numbers else sorted(names))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_EXAMPLES]) + (" ..." if len(names) > _EXAMPLES else "")
