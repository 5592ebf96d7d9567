"""`Images`: a manifest's pixels by index, either packed into memory maps or streamed from their sources."""

from __future__ import annotations

import hashlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data.decode import content_sha256, decode_then
from data.errors import DataError
from data.files import Checked
from data.packs import USUAL, Found, Shape, Squares, Way, look, new_pack
from data.reading import MAX_PIXELS, Reading, recorded_in
from data.sources import Entry, Pixels, Source, Unreadable, open_source
from data.sources.spool import SpoolSource, write_spool
from data.spread import open_pool, spread
from data.types import Split

_INLINE = 2048  # below this number of images, decoding takes less time than starting worker processes
_BATCH = 256
KEPT = 8 << 30
"""Decoded pixels are kept on disk if they need at most this many bytes."""
_STALE = 24 * 3600.0  # a temporary file older than this many seconds has lost its writer


class Images(ABC):
    """Pixels by the manifest's index. All images have the same size. The object can be pickled.

    Attributes:
        size: side of each image in pixels.
        channels: C, 3 unless other bands are chosen.
    """

    size: int
    channels: int = 3

    @abstractmethod
    def __len__(self) -> int:
        """The number of rows of the manifest."""

    @abstractmethod
    def read(self, index: NDArray[np.int64]) -> Pixels:
        """(B,) int64, in any order and with repeats -> (B, size, size, C) uint8.

        Raises:
            IndexError: an index is outside 0..N-1.
            DataError: an image is gone, or is not the image that the manifest lists.
        """

    def _check(self, index: NDArray[np.int64]) -> None:
        if index.size and not 0 <= index.min() <= index.max() < len(self):
            raise IndexError(
                f"images {index.min()} to {index.max()} are asked for, out of 0 to {len(self) - 1}"
            )


class PackedImages(Images):
    """All pixels in memory-mapped packs (`data.packs`).

    Args:
        found: where the square of each row of the manifest is; none is missing.
    """

    def __init__(self, found: Found) -> None:
        self._found = found
        self._files = [np.load(path, mmap_mode="r") for path in found.files]
        self.size, self.channels = self._files[0].shape[1], self._files[0].shape[3]

    def __reduce__(self) -> tuple[type[PackedImages], tuple[Found]]:
        return PackedImages, (self._found,)

    def __len__(self) -> int:
        return len(self._found.row)

    def read(self, index: NDArray[np.int64]) -> Pixels:
        """(B,) int64 -> (B, size, size, C) uint8, as a copy."""
        self._check(index)
        row = self._found.row[index]
        if len(self._files) == 1:
            return np.asarray(self._files[0][row])
        file = self._found.file[index]
        out = np.empty((len(index), self.size, self.size, self.channels), np.uint8)
        for number in np.unique(file).tolist():
            mine = file == number
            out[mine] = self._files[number][row[mine]]
        return out


@dataclass
class _Located:
    """Where the manifest's images are. All fields but `sources` have one item per row of the manifest."""

    sources: list[Source]
    owner: NDArray[np.uint8]  # position in sources
    entries: list[Entry]
    sha256: list[str]


@dataclass(frozen=True)
class _Work:
    """Images of one source that are read together, and their rows in the manifest."""

    source: Source
    entries: list[Entry]
    rows: list[int]
    sha256: list[str]
    shape: Shape


class StreamedImages(Images):
    """Images that `workers` processes read and decode on demand. Decoded, they would need too much disk."""

    def __init__(self, located: _Located, shape: Shape, workers: int) -> None:
        self.size, self.channels, self._shape = shape.size, shape.reading.channels, shape
        self._located = located
        self._workers = workers if all(source.parallel for source in located.sources) else 0
        self._pool: ProcessPoolExecutor | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_pool": None}

    def __len__(self) -> int:
        return len(self._located.entries)

    def read(self, index: NDArray[np.int64]) -> Pixels:
        """(B,) int64 -> (B, size, size, C) uint8."""
        self._check(index)
        if self._workers >= 2 and self._pool is None:
            self._pool = open_pool(self._workers)
        out = np.empty((len(index), self.size, self.size, self.channels), np.uint8)
        share = max(1, -(-len(index) // max(1, 2 * self._workers)))
        positions: list[NDArray[np.int64]] = []
        tasks: list[_Work] = []
        for number, source in enumerate(self._located.sources):
            own = np.flatnonzero(self._located.owner[index] == number)
            for start in range(0, len(own), share):
                positions.append(own[start : start + share])
                rows = [int(row) for row in index[positions[-1]]]
                tasks.append(_work(self._located, source, rows, self._shape))
        for where, pixels in zip(
            positions, spread(_decode_work, tasks, self._workers, self._pool), strict=True
        ):
            out[where] = pixels
        return out

    def close(self) -> None:
        """End the worker processes. The next `read` starts new ones."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None


def open_images(
    manifest: pa.Table,
    sources: dict[str, str],
    size: int,
    cache: Path,
    workers: int = 0,
    whole: bool = False,
    limit_bytes: int = KEPT,
    report: Callable[[int, int], None] | None = None,
    reading: Reading = Reading(),  # noqa: B008  # it is immutable
    checked: Checked | None = None,
    note: Callable[[str], None] = lambda line: None,
    way: Way = USUAL,
) -> Images:
    """Open the pixels of all images of a manifest, as squares of `size` px.

    If the decoded pixels need at most `limit_bytes`, they are kept in packs under `cache`. Images are found
    there by their content, so the same images are not decoded again, even if they come from another place.
    Only images that no pack has are decoded now. Two processes may do this at the same time.

    If they need more, images are decoded each time they are read. A source that is slow to read out of order
    (Parquet) is first copied to the cache, without decoding it.

    Args:
        manifest: schema `MANIFEST`, rows in the order of index.
        sources: split -> source. Held-out test images come from the source of train.
        size: side in pixels, from `data.preprocessing.stored_size`.
        cache: a folder; it is created if missing.
        workers: number of processes that decode.
        whole: fit the whole image into the square (`resize_within`) instead of cropping the central square.
        limit_bytes: how many bytes of decoded pixels may be on disk.
        report: called with the number of images done and the number of all images while decoding.
        reading: which bands are read, and how wide values are scaled; as the manifest records it.
        checked: hashes of files that this run has read.
        note: gets a line about each damaged file of the cache.
        way: how an image is resized to a square, unless `whole`.

    Raises:
        DataError: an image is gone, or has changed since the manifest was made.
        StoreError: the cache has no room.
    """
    shape = Shape(size, whole, reading, way)
    hashes: list[str] = manifest["sha256"].to_pylist()
    cache.mkdir(parents=True, exist_ok=True)
    _sweep(cache)
    found = look(cache, shape, hashes, checked, note)
    if len(found.missing) == 0:
        return PackedImages(found)
    located = _locate(manifest, sources, hashes)
    if len(hashes) * shape.bytes > limit_bytes:
        if not all(source.random_access for source in located.sources):
            digest = hashlib.sha256("\n".join(hashes).encode()).hexdigest()
            located = _spool(located, cache / f"encoded-{digest[:32]}.bin", report)
        return StreamedImages(located, shape, workers)
    _pack(located, found.missing, cache, shape, workers, report)
    return PackedImages(look(cache, shape, hashes, checked, note))


def reading_of(manifest: pa.Table, recorded: Mapping[str, Any]) -> Reading:
    """How a manifest's images are read. No image of it is refused for its size now.

    Args:
        manifest: schema `MANIFEST`.
        recorded: the manifest's meta.json.
    """
    sizes = manifest["width"].to_numpy().astype(np.int64) * manifest["height"].to_numpy()
    return recorded_in(recorded, max(MAX_PIXELS, int(sizes.max(initial=0))))


def _locate(manifest: pa.Table, sources: dict[str, str], hashes: list[str]) -> _Located:
    splits: list[str] = manifest["split"].to_pylist()
    uris: list[str] = manifest["uri"].to_pylist()
    # Held-out images come from train's source, and so do those of a split that this source keeps apart.
    roles = [split if split in sources else "train" for split in splits]
    if "train" not in sources and "train" in roles:
        raise DataError(f"the manifest has {splits[roles.index('train')]} images, but no source for these")
    found: list[Source] = []
    owner = np.zeros(len(roles), np.uint8)
    entries: list[Any] = [None] * len(roles)
    for role in dict.fromkeys(roles):
        rows = [row for row, other in enumerate(roles) if other == role]
        source = open_source(sources[role], _role(role))
        for row, entry in zip(rows, source.find([uris[row] for row in rows]), strict=True):
            entries[row] = entry
        owner[rows] = len(found)
        found.append(source)
    return _Located(found, owner, entries, hashes)


def _role(name: str) -> Split:
    assert name in ("train", "unlabelled", "test"), name
    return name  # type: ignore[return-value]  # narrowed by the line above


def _work(located: _Located, source: Source, rows: list[int], shape: Shape) -> _Work:
    return _Work(
        source, [located.entries[row] for row in rows], rows, [located.sha256[row] for row in rows], shape
    )


def _tasks(located: _Located, shape: Shape, only: NDArray[np.int64]) -> Iterator[_Work]:
    """Some rows, source by source, each in the order that is fastest to read."""
    for number, source in enumerate(located.sources):
        mine = only[located.owner[only] == number]
        row_of = {located.entries[row].uri: int(row) for row in mine}
        assert len(row_of) == len(mine), f"{source.spec}: two rows of the manifest have one URI"
        for batch in source.batches([located.entries[row] for row in row_of.values()], _BATCH):
            yield _work(located, source, [row_of[entry.uri] for entry in batch], shape)


def _contents(work: _Work) -> Iterator[bytes | Pixels]:
    """Read images and check that each is still the one that the manifest lists."""
    contents = work.source.read(work.entries)
    for entry, expected in zip(work.entries, work.sha256, strict=True):
        again = "run again to rebuild the manifest"
        try:
            data = next(contents)
        except OSError as error:
            raise DataError(
                f"{entry.uri!r} of {work.source.spec} can't be read ({error}); {again}"
            ) from error
        if isinstance(data, Unreadable):
            raise DataError(f"{entry.uri!r} of {work.source.spec}: {data}; {again}")
        if content_sha256(data) != expected and isinstance(work.source, SpoolSource):
            work.source.path.unlink(missing_ok=True)
            raise DataError(
                f"{work.source.path} is not what was written; it is deleted: give the same command again, "
                "and the images are copied to it again"
            )
        if content_sha256(data) != expected:
            raise DataError(
                f"{entry.uri!r} of {work.source.spec} is not the image that the manifest lists; {again}"
            )
        yield data


def _squares(work: _Work) -> Iterator[Pixels]:
    for entry, data in zip(work.entries, _contents(work), strict=True):
        try:
            yield decode_then(data, work.shape.reading, work.shape.of)
        except DataError as error:
            raise DataError(
                f"{entry.uri!r} of {work.source.spec} can't be decoded now ({error}), although it could be "
                "when the manifest was made; a library may have changed: rebuild the manifest"
            ) from error


def _decode_work(work: _Work) -> Pixels:
    return np.stack(list(_squares(work)))


def _pack_work(task: tuple[_Work, Path, list[int]]) -> int:
    work, path, rows = task
    with Squares(path) as squares:
        for row, square in zip(rows, _squares(work), strict=True):
            squares.write(row, square)
    return len(rows)


def _pack(
    located: _Located,
    missing: NDArray[np.int64],
    cache: Path,
    shape: Shape,
    workers: int,
    report: Callable[[int, int], None] | None,
) -> None:
    """Decode the missing images into a new pack."""
    count = len(missing)
    inline = count < _INLINE or not all(source.parallel for source in located.sources)
    row_of = {position: row for row, position in enumerate(missing.tolist())}
    with new_pack(cache, shape, count) as (path, hashes):
        works = list(_tasks(located, shape, missing))
        tasks = ((work, path, [row_of[position] for position in work.rows]) for work in works)
        done = 0
        for packed in spread(_pack_work, tasks, 0 if inline else workers):
            done += packed
            if report is not None:
                report(done, count)
        for position, row in row_of.items():
            hashes[row] = bytes.fromhex(located.sha256[position])


def _spool(located: _Located, path: Path, report: Callable[[int, int], None] | None) -> _Located:
    count = len(located.entries)

    def contents() -> Iterator[tuple[int, bytes]]:
        for done, work in _counted(_tasks(located, Shape(0), np.arange(count))):
            for row, data in zip(work.rows, _contents(work), strict=True):
                assert isinstance(data, bytes), "a source that gives pixels must have random access"
                yield row, data
            if report is not None:
                report(done, count)

    if not path.exists():
        write_spool(path, contents(), count)
    source = SpoolSource(path)
    try:
        entries = source.entries()
    except (ValueError, IndexError, OSError):
        entries = []
    if len(entries) != count:
        path.unlink()
        return _spool(located, path, report)
    return _Located([source], np.zeros(count, np.uint8), entries, located.sha256)


def _counted(tasks: Iterable[_Work]) -> Iterator[tuple[int, _Work]]:
    done = 0
    for work in tasks:
        done += len(work.rows)
        yield done, work


def _sweep(cache: Path) -> None:
    """Delete files that killed processes left half-written."""
    for path in cache.glob("*.part"):
        try:
            if path.stat().st_mtime < time.time() - _STALE:
                path.unlink()
        except FileNotFoundError:
            pass  # another process has just deleted it
