"""`Images`: the pixels of a manifest by their index, packed into a memory map or streamed from their sources."""

from __future__ import annotations

import errno
import hashlib
import os
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data.decode import DECODE_VERSION, content_sha256, decode, resize_square, resize_within
from data.errors import DataError, StoreError
from data.sources import Entry, Pixels, Source, open_source
from data.sources.spool import SpoolSource, write_spool
from data.spread import open_pool, spread
from data.types import Split

_INLINE = 2048  # images; fewer are decoded sooner than worker processes start
_BATCH = 256
_STALE = 24 * 3600.0  # seconds after which a temporary file has lost its writer


class Images(ABC):
    """Pixels by the manifest's index, all of one size. Can be pickled.

    Attributes:
        size: side in pixels.
    """

    size: int

    @abstractmethod
    def __len__(self) -> int:
        """Rows of the manifest."""

    @abstractmethod
    def read(self, index: NDArray[np.int64]) -> Pixels:
        """(B,) int64, any order, repeats allowed -> (B, size, size, 3) uint8.

        Raises:
            IndexError: an index outside 0..N-1.
            DataError: an image isn't there any more, or another than the manifest's.
        """

    def _check(self, index: NDArray[np.int64]) -> None:
        if index.size and not 0 <= index.min() <= index.max() < len(self):
            raise IndexError(f"image {index.min()} to {index.max()} asked for, of 0 to {len(self) - 1}")


class PackedImages(Images):
    """All pixels in one memory-mapped file, (N, size, size, 3) uint8."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pixels = np.load(path, mmap_mode="r")
        self.size = self._pixels.shape[1]

    def __reduce__(self) -> tuple[type[PackedImages], tuple[Path]]:
        return PackedImages, (self.path,)

    def __len__(self) -> int:
        return len(self._pixels)

    def read(self, index: NDArray[np.int64]) -> Pixels:
        """(B,) int64 -> (B, size, size, 3) uint8, a copy."""
        self._check(index)
        return np.asarray(self._pixels[index])


@dataclass(frozen=True)
class _Shape:
    """What is kept of an image: its central square, or all of it within a square."""

    size: int
    whole: bool

    def of(self, pixels: Pixels) -> Pixels:
        return resize_within(pixels, self.size) if self.whole else resize_square(pixels, self.size)


@dataclass
class _Located:
    """Where the manifest's images lie; all lists have one item for each row."""

    sources: list[Source]
    owner: NDArray[np.uint8]  # position in sources
    entries: list[Entry]
    sha256: list[str]


@dataclass(frozen=True)
class _Work:
    """Images of one source to be read together, and the manifest's rows they belong to."""

    source: Source
    entries: list[Entry]
    rows: list[int]
    sha256: list[str]
    shape: _Shape


class StreamedImages(Images):
    """Images too many to keep as pixels: read and decoded when asked for, by `workers` processes."""

    def __init__(self, located: _Located, shape: _Shape, workers: int) -> None:
        self.size, self._shape = shape.size, shape
        self._located = located
        self._workers = workers if all(source.parallel for source in located.sources) else 0
        self._pool: ProcessPoolExecutor | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_pool": None}

    def __len__(self) -> int:
        return len(self._located.entries)

    def read(self, index: NDArray[np.int64]) -> Pixels:
        """(B,) int64 -> (B, size, size, 3) uint8."""
        self._check(index)
        if self._workers >= 2 and self._pool is None:
            self._pool = open_pool(self._workers)
        out = np.empty((len(index), self.size, self.size, 3), np.uint8)
        share = max(1, -(-len(index) // max(1, 2 * self._workers)))
        positions: list[NDArray[np.int64]] = []
        tasks: list[_Work] = []
        for number, source in enumerate(self._located.sources):
            own = np.flatnonzero(self._located.owner[index] == number)
            for start in range(0, len(own), share):
                positions.append(own[start : start + share])
                rows = [int(row) for row in index[positions[-1]]]
                tasks.append(_work(self._located, source, rows, self._shape))
        for where, pixels in zip(positions, spread(_decode_work, tasks, self._workers, self._pool), strict=True):
            out[where] = pixels
        return out

    def close(self) -> None:
        """Ends the worker processes; the next `read` starts new ones."""
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
    limit_bytes: int = 8 << 30,
    report: Callable[[int, int], None] | None = None,
) -> Images:
    """Pixels of all images of a manifest, each its central square of `size` px, or all of it within such a square.

    Up to `limit_bytes` they are decoded once into a file under `cache`, named by content, so that equal images are
    decoded once however often and wherever from they are asked for. Two processes at once are safe. Above, images are
    decoded when read; those in sources that are slow out of order (Parquet) are first copied, encoded, to the cache.

    Args:
        manifest: the contract's columns, rows in order of index.
        sources: split -> source; test images that were held out lie in train's.
        size: side in pixels, as from `stored_size`.
        cache: a folder; made if missing.
        workers: processes that decode.
        whole: nothing is cut off (`resize_within`); else the central square is taken.
        limit_bytes: of decoded pixels on disk.
        report: called with images done, and all, while they are decoded.

    Raises:
        DataError: an image is gone, or another than when the manifest was made.
        StoreError: the cache has no room.
    """
    shape = _Shape(size, whole)
    digest = hashlib.sha256(f"{DECODE_VERSION}\n{size}\n{'whole' if whole else ''}".encode())
    hashes: list[str] = manifest["sha256"].to_pylist()
    digest.update("\n".join(hashes).encode())
    cache.mkdir(parents=True, exist_ok=True)
    _sweep(cache)
    path = cache / f"pixels-{size}-{digest.hexdigest()[:32]}.npy"
    if path.exists():
        return PackedImages(path)
    located = _locate(manifest, sources, hashes)
    if len(hashes) * size * size * 3 > limit_bytes:
        if not all(source.random_access for source in located.sources):
            located = _spool(located, cache / f"encoded-{digest.hexdigest()[:32]}.bin", report)
        return StreamedImages(located, shape, workers)
    _pack(located, path, shape, workers, report)
    return PackedImages(path)


def _locate(manifest: pa.Table, sources: dict[str, str], hashes: list[str]) -> _Located:
    splits: list[str] = manifest["split"].to_pylist()
    uris: list[str] = manifest["uri"].to_pylist()
    held_out = "test" not in sources
    roles = [("train" if held_out and split == "test" else split) for split in splits]
    missing = sorted(set(roles) - set(sources))
    if missing:
        raise DataError(f"the manifest has {missing[0]} images, but no source is given for these")
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


def _work(located: _Located, source: Source, rows: list[int], shape: _Shape) -> _Work:
    return _Work(source, [located.entries[row] for row in rows], rows, [located.sha256[row] for row in rows], shape)


def _tasks(located: _Located, shape: _Shape) -> Iterator[_Work]:
    """All rows, in each source's best order."""
    for number, source in enumerate(located.sources):
        row_of = {located.entries[row].uri: int(row) for row in np.flatnonzero(located.owner == number)}
        for batch in source.batches([located.entries[row] for row in row_of.values()], _BATCH):
            yield _work(located, source, [row_of[entry.uri] for entry in batch], shape)


def _contents(work: _Work) -> Iterator[bytes | Pixels]:
    """What the source holds, after checking that it's what the manifest saw."""
    contents = work.source.read(work.entries)
    for entry, expected in zip(work.entries, work.sha256, strict=True):
        again = "run again so that the manifest is made anew"
        try:
            data = next(contents)
        except OSError as error:
            raise DataError(f"{entry.uri!r} of {work.source.spec} can't be read ({error}); {again}") from error
        if content_sha256(data) != expected:
            raise DataError(f"{entry.uri!r} of {work.source.spec} is not the image that the manifest lists; {again}")
        yield data


def _squares(work: _Work) -> Iterator[Pixels]:
    for entry, data in zip(work.entries, _contents(work), strict=True):
        try:
            yield work.shape.of(decode(data))
        except DataError as error:
            raise DataError(
                f"{entry.uri!r} of {work.source.spec}: {error}, although it could be when the manifest was made; "
                "have the libraries changed? Make a new one"
            ) from error


def _decode_work(work: _Work) -> Pixels:
    return np.stack(list(_squares(work)))


def _pack_work(task: tuple[_Work, Path]) -> int:
    work, path = task
    pixels = np.load(path, mmap_mode="r+")
    for row, square in zip(work.rows, _squares(work), strict=True):
        pixels[row] = square
    return len(work.rows)


def _pack(
    located: _Located, path: Path, shape: _Shape, workers: int, report: Callable[[int, int], None] | None
) -> None:
    count = len(located.entries)
    inline = count < _INLINE or not all(source.parallel for source in located.sources)
    draft = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
    try:
        _reserve(draft, (count, shape.size, shape.size, 3))
        done = 0
        for packed in spread(_pack_work, ((work, draft) for work in _tasks(located, shape)), 0 if inline else workers):
            done += packed
            if report is not None:
                report(done, count)
        draft.replace(path)  # over that of another process, if it was first: the content is the same
    finally:
        draft.unlink(missing_ok=True)


def _reserve(path: Path, shape: tuple[int, ...]) -> None:
    """Makes an .npy of zeros, with its room on disk, so that a full disk shows here and not as a crash on writing."""
    np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape).flush()
    if not hasattr(os, "posix_fallocate"):
        return
    with path.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise StoreError(
                    f"{path.parent}: no room for {path.stat().st_size / 1e9:.1f} GB of pixels; "
                    "free some, or lower data.image_size"
                ) from None  # other errors: a file system that can't reserve


def _spool(located: _Located, path: Path, report: Callable[[int, int], None] | None) -> _Located:
    count = len(located.entries)

    def contents() -> Iterator[tuple[int, bytes]]:
        for done, work in _counted(_tasks(located, _Shape(0, False))):
            for row, data in zip(work.rows, _contents(work), strict=True):
                assert isinstance(data, bytes), "sources that give pixels are read in any order"
                yield row, data
            if report is not None:
                report(done, count)

    if not path.exists():
        write_spool(path, contents(), count, path.with_name(f"{path.name}.{uuid.uuid4().hex}.part"))
    source = SpoolSource(path)
    return _Located([source], np.zeros(count, np.uint8), source.entries(), located.sha256)


def _counted(tasks: Iterable[_Work]) -> Iterator[tuple[int, _Work]]:
    done = 0
    for work in tasks:
        done += len(work.rows)
        yield done, work


def _sweep(cache: Path) -> None:
    """Deletes what killed processes left half-written."""
    for path in cache.glob("*.part"):
        try:
            if path.stat().st_mtime < time.time() - _STALE:
                path.unlink()
        except FileNotFoundError:
            pass  # another process swept too
