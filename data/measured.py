"""Read every image once: hash it, check it, measure it, and pack its square. What was read is remembered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import accumulate, chain
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data.decode import content_sha256, measure
from data.errors import DataError
from data.files import read_sealed, write_sealed
from data.packs import Shape, Squares, new_pack
from data.reading import Reading
from data.sources import UNKNOWN_TIME, Entry, Pixels, Source, Unreadable
from data.spread import spread
from data.thumbnails import pixel_sha, thumbnail
from data.types import Split
from data.value_range import Values
from data.wide import NeedsLibrary

KNOWN = pa.schema(
    [
        pa.field("role", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("mtime", pa.int64(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("pixels", pa.string(), nullable=False),
        pa.field("thumbnail", pa.binary(), nullable=False),
        pa.field("kind", pa.string()),
        pa.field("quantiles", pa.binary(), nullable=False),
    ]
)
"""What is remembered of each image that was read, with (role, uri, size, mtime) as the key.

`reason` says why an image is broken; it is null for a good one. `kind` and `quantiles` are `Values`.
"""

_BATCH = 256
_INLINE = 2048  # below this number of images, checking takes less time than starting worker processes
TRAINED: tuple[Split, ...] = ("train", "unlabelled")
_PACKED = 8 << 30  # bytes of squares that the pass over the images writes at most


class Measured(NamedTuple):
    """What is known of an image after reading it once.

    A broken image has a reason, and its width and height are 0. If it could not be read at all, sha256 is "".
    `pixels` and `thumbnail` are those of `data.thumbnails`.
    """

    sha256: str
    width: int
    height: int
    reason: str | None
    pixels: str = ""
    thumbnail: bytes = b""
    values: Values = Values(None, b"")


class Row(NamedTuple):
    """An image that can be used.

    Attributes:
        role: the role of its source. A held-out image has the role train.
        entry: where it is.
        measured: what is known of it.
        label: its class, or None.
        annotation: hash of its annotations, or None.
    """

    role: Split
    entry: Entry
    measured: Measured
    label: int | None
    annotation: str | None


def read_known(path: Path) -> pa.Table | None:
    """Read what an earlier manifest remembered.

    Returns None if the file is missing, damaged or not readable. Then all images are read again.
    """
    try:
        content = read_sealed(path)
        table = None if content is None else pq.read_table(pa.BufferReader(content))
    except (OSError, pa.ArrowException):
        return None
    return table if table is not None and table.schema.equals(KNOWN) else None


def write_known(path: Path, known: pa.Table) -> None:
    """Write what the next manifest needs to know. The file is replaced as a whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = pa.BufferOutputStream()
    pq.write_table(known, content, compression="zstd")
    write_sealed(path, content.getvalue().to_pybytes())


def measure_all(
    sources: dict[Split, Source],
    known: pa.Table | None,
    report: Callable[[int, int], None],
    workers: int,
    reading: Reading,
    packs: tuple[Path, Shape] | None,
) -> tuple[dict[Split, list[Measured]], int]:
    """Measure all entries, but read only those that are not remembered -> (measured, number read).

    The squares of the images that are read go into a new pack.
    """
    found: dict[Split, list[Measured | None]] = {
        role: _recall(role, source.entries(), known) for role, source in sources.items()
    }
    total = sum(map(len, found.values()))
    unread = sum(item is None for items in found.values() for item in items)
    done, row = total - unread, 0
    report(done, total)
    with ExitStack() as stack:
        path, shape = None, None
        hashes: list[bytes] = []
        if packs is not None and unread and unread * packs[1].bytes <= _PACKED:
            shape = packs[1]
            path, hashes = stack.enter_context(new_pack(packs[0], shape, unread))
        for role, source in sources.items():
            position = {entry.uri: i for i, entry in enumerate(source.entries()) if found[role][i] is None}
            entries = [source.entries()[i] for i in position.values()]
            batches = list(source.batches(entries, _BATCH))
            starts = [row + start for start in accumulate((len(batch) for batch in batches), initial=0)]
            alone = len(entries) < _INLINE or not source.parallel
            tasks = (
                Batch(source, batch, reading, path, shape, start)
                for batch, start in zip(batches, starts, strict=False)
            )
            for batch, results in zip(
                batches, spread(measure_batch, tasks, 0 if alone else workers), strict=True
            ):
                for entry, measured in zip(batch, results, strict=True):
                    found[role][position[entry.uri]] = measured
                    if hashes and measured.reason is None and measured.values.kind is None:
                        hashes[row] = bytes.fromhex(measured.sha256)
                    row += 1
                done += len(batch)
                report(done, total)
    return {role: [item for item in items if item is not None] for role, items in found.items()}, unread


@dataclass(frozen=True)
class Batch:
    """Images of one source that are read together.

    Attributes:
        source: the source.
        entries: the images.
        reading: how they are decoded.
        path: the pack that gets their squares, or None.
        shape: the shape of the squares.
        start: row of the first image in the pack.
    """

    source: Source
    entries: list[Entry]
    reading: Reading
    path: Path | None = None
    shape: Shape | None = None
    start: int = 0


def _recall(role: str, entries: Sequence[Entry], known: pa.Table | None) -> list[Measured | None]:
    if known is None:
        return [None] * len(entries)
    own = known.filter(pc.equal(known["role"], role))
    row_of = {uri: row for row, uri in enumerate(own["uri"].to_pylist())}
    columns = [own[name].to_pylist() for name in KNOWN.names[2:]]
    sizes, times, hashes, widths, heights, reasons, pixels, thumbnails, kinds, quantiles = columns
    found: list[Measured | None] = []
    for entry in entries:
        row = row_of.get(entry.uri)
        if (
            row is None
            or (sizes[row], times[row]) != (entry.size, entry.mtime)
            or entry.mtime == UNKNOWN_TIME
        ):
            found.append(None)
        else:
            values = Values(kinds[row], quantiles[row])
            told = hashes[row], widths[row], heights[row], reasons[row], pixels[row], thumbnails[row]
            found.append(Measured(*told, values))
    return found


def measure_batch(task: Batch) -> list[Measured]:
    """Read, hash and decode each image once, and write its square.

    Raises:
        StoreError: the disk has no room.
    """
    found: list[Measured] = []
    with ExitStack() as stack:
        squares = None if task.path is None else stack.enter_context(Squares(task.path))
        while len(found) < len(task.entries):
            try:
                for data in task.source.read(task.entries[len(found) :]):
                    measured, square = _measure_one(data, task.reading, task.shape)
                    if squares is not None and square is not None:
                        squares.write(task.start + len(found), square)
                    found.append(measured)
            except OSError as error:  # only this entry failed: continue with the next one
                found.append(Measured("", 0, 0, f"it can't be read ({error.strerror or error})"))
    return found


def _measure_one(
    data: bytes | Pixels | Unreadable, reading: Reading, shape: Shape | None
) -> tuple[Measured, Pixels | None]:
    """Measure an image, and make its square if it can be decoded."""

    def keep(pixels: Pixels) -> tuple[str, bytes, Pixels | None]:
        square = None if shape is None else shape.of(pixels)
        return pixel_sha(pixels), thumbnail(pixels).tobytes(), square

    if isinstance(data, Unreadable):
        return Measured("", 0, 0, str(data)), None
    sha256 = content_sha256(data)
    try:
        found = measure(data, reading, keep)
    except NeedsLibrary as error:  # not remembered: the library may be there next time
        return Measured("", 0, 0, str(error)), None
    except DataError as error:
        return Measured(sha256, 0, 0, str(error)), None
    quantiles = b"" if found.quantiles is None else found.quantiles.astype("<f8").tobytes()
    pixels, small, square = found.kept
    if found.kind is not None:  # it was scaled by its own range, so the hash has to include that range
        pixels = content_sha256(f"{found.kind}{pixels}".encode() + quantiles)
    values = Values(found.kind, quantiles)
    return Measured(sha256, found.width, found.height, None, pixels, small, values), square


def known_table(sources: dict[Split, Source], measured: dict[Split, list[Measured]]) -> pa.Table:
    """The table to remember: all images that were read and can be recognised next time.

    Images that could not be read at all are left out, so they are tried again.
    """
    rows = list(
        chain.from_iterable(
            (
                (role, entry.uri, entry.size, entry.mtime, *found[:-1], *found.values)
                for entry, found in zip(source.entries(), measured[role], strict=True)
                if found.sha256 and entry.mtime != UNKNOWN_TIME
            )
            for role, source in sources.items()
        )
    )
    return pa.Table.from_arrays(
        [pa.array([row[i] for row in rows], field.type) for i, field in enumerate(KNOWN)], schema=KNOWN
    )
