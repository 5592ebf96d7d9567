"""Decoding and checking of image files, and `Images`: square pixels by the manifest's index.

Every image becomes (H, W, 3) uint8 RGB, whatever it was: rotated as its EXIF orientation says, transparent parts on
white, 16-bit grey scaled to 8 bit, the first frame of an animation. Plain JPEG is decoded by simplejpeg, the rest by
Pillow; where both can, they give the same bytes.
"""

from __future__ import annotations

import errno
import hashlib
import io
import multiprocessing
import os
import time
import uuid
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from data.errors import DataError, StoreError
from data.sources import Entry, Pixels, Source, open_source
from data.sources.spool import SpoolSource, write_spool
from data.types import Split

DECODE_VERSION = 1
"""Part of the name of packed pixels: raised whenever `decode` or `resize_square` give other pixels."""

MAX_PIXELS = 89_478_485
"""Images above are refused before they are decoded: 256 MiB as RGB, and where Pillow begins to warn."""

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "DIB", "TIFF", "PPM", "TGA", "AVIF", "JPEG2000", "ICO", "PCX", "QOI")
"""Pillow's formats that are tried. Not EPS, PDF and WMF, which run other programs on what is in the file."""

_ORIENTATION = 0x0112  # EXIF tag
_INLINE = 2048  # images; fewer are decoded sooner than worker processes start
_BATCH = 256
_STALE = 24 * 3600.0  # seconds after which a temporary file has lost its writer

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")


# Decoding


def decode(data: bytes | Pixels) -> Pixels:
    """The image's pixels as they are meant to be seen.

    Args:
        data: a file's content, or pixels, (H, W, 3) or grey (H, W) uint8.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        DataError: it isn't a whole image in a known format, or has more than `MAX_PIXELS`; the message is the reason.
    """
    if isinstance(data, np.ndarray):
        return _checked(data)
    if not data:
        raise DataError("it is empty")
    pixels = _decode_jpeg(data) if data.startswith(b"\xff\xd8") else None
    return _decode_any(data) if pixels is None else pixels


def _checked(pixels: Pixels) -> Pixels:
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=-1)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or 0 in pixels.shape:
        raise DataError(f"pixels are {pixels.dtype} of shape {pixels.shape}, not uint8 of (height, width, 3)")
    return np.ascontiguousarray(pixels)


def _decode_jpeg(data: bytes) -> Pixels | None:
    """The common JPEG by simplejpeg; None where Pillow has to decide: damaged, CMYK, Adobe's colour spaces."""
    markers = _jpeg_markers(data)
    if markers is None or 0xEE in markers:
        return None
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
        if space not in ("YCbCr", "Gray") or height * width > MAX_PIXELS:
            return None
        pixels: Pixels = simplejpeg.decode_jpeg(data)
    except ValueError:
        return None
    if 0xE1 not in markers:  # neither EXIF nor XMP, where alone an orientation can stand
        return pixels
    with _quiet():
        try:
            with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
                return _upright(pixels, _orientation(image))
        except Exception:  # as in `_decode_any`, which will say what is wrong
            return None


def _jpeg_markers(data: bytes) -> set[int] | None:
    """Second bytes of the markers before the image data; None if these don't make sense."""
    markers: set[int] = set()
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # padding
            at += 1
            continue
        if marker == 0xDA:
            return markers
        markers.add(marker)
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def _decode_any(data: bytes) -> Pixels:
    with _quiet():
        try:
            with Image.open(io.BytesIO(data), formats=_formats()) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise DataError(_too_large(image.width * image.height))
                image.load()
                # After loading: TIFF turns the image itself then, and PNG may have its EXIF at the end.
                return _upright(_rgb(image), _orientation(image))
        except DataError:
            raise
        except UnidentifiedImageError:
            raise DataError(_unknown(data)) from None
        except Image.DecompressionBombError:
            raise DataError("its header claims too many pixels (a decompression bomb)") from None
        except Exception as error:  # decoders of damaged files raise nearly anything
            reason = str(error) or type(error).__name__
            what = "it is cut off" if "truncated" in reason.lower() else "it can't be decoded"
            raise DataError(f"{what} ({reason})") from None


@cache
def _formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this Pillow was built with."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _too_large(pixels: int) -> str:
    return f"it has {pixels:,} pixels, more than the {MAX_PIXELS:,} that are allowed"


def _unknown(data: bytes) -> str:
    if data.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, not the image; run `git lfs pull`"
    return "it is no image, or damaged, or of a format that isn't supported"


class _quiet(warnings.catch_warnings):
    """Around calls of Pillow alone: its remarks on odd metadata, and on sizes that `MAX_PIXELS` decides about."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 if it isn't given, or not readable."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # broken EXIF raises nearly anything, and the pixels are none the worse for it
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """Undoes an EXIF orientation (TIFF 6.0, tag 274): a transposition from 5 on, then flips."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _rgb(image: Image.Image) -> Pixels:
    if image.mode.startswith(("I", "F")):
        grey = _eight_bit(image)
        return np.repeat(grey[..., None], 3, axis=-1)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return np.asarray(image.convert("RGB"))


def _eight_bit(image: Image.Image) -> NDArray[np.uint8]:
    """Grey of more than 8 bit. 0..65535 as 16 bit; anything wider has no range of its own, so from its min to max."""
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise DataError("it has pixels that are not finite numbers")
    low, high = float(values.min()), float(values.max())
    if image.mode.startswith("I") and low >= 0 and high <= 65535:
        low, high = 0.0, 65535.0
    return np.rint((values - low) * (255 / max(high - low, 1e-300))).astype(np.uint8)


def content_sha256(data: bytes | Pixels) -> str:
    """What names an image's content: sha256 of its file's bytes, or of the shape and bytes of its pixels."""
    if isinstance(data, bytes):
        return hashlib.sha256(data).hexdigest()
    digest = hashlib.sha256(repr(data.shape).encode())
    digest.update(np.ascontiguousarray(data).data)
    return digest.hexdigest()


def stored_size(image_size: int) -> int:
    """Side of the stored square in pixels, for networks that see `image_size`.

    From 64 px on the crop for evaluation is the central 87.5 % (224 of 256); smaller images are used whole.
    """
    return image_size if image_size < 64 else round(image_size * 8 / 7)


def resize_square(pixels: Pixels, size: int) -> Pixels:
    """The central square, (size, size, 3) uint8: bicubic, and antialiased where it shrinks."""
    height, width, _ = pixels.shape
    if height == width == size:
        return pixels
    side = min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    image = Image.fromarray(pixels)
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, (left, top, left + side, top + side)))


def extent_within(width: int, height: int, side: int) -> tuple[int, int]:
    """(width, height) of an image once its longer side is `side` px; the shorter has 1 px or more."""
    scale = side / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def resize_within(pixels: Pixels, side: int) -> Pixels:
    """The whole image, its longer side `side` px, at the top left of a black square, (side, side, 3) uint8."""
    height, width, _ = pixels.shape
    extent = extent_within(width, height, side)
    square = np.zeros((side, side, 3), np.uint8)
    resized = Image.fromarray(pixels).resize(extent, Image.Resampling.BICUBIC)
    square[: extent[1], : extent[0]] = np.asarray(resized)
    return square


# Worker processes


def spread(
    work: Callable[[_Task], _Result], tasks: Iterable[_Task], workers: int, pool: ProcessPoolExecutor | None = None
) -> Iterator[_Result]:
    """`map(work, tasks)`, in order, in that many processes; in this one if there are fewer than two.

    The processes are new ones (spawned), end with the iterator, and with this process however it ends.
    """
    if workers < 2:
        yield from map(work, tasks)
    elif pool is not None:
        yield from pool.map(work, tasks)
    else:
        with _open_pool(workers) as pool:
            yield from pool.map(work, tasks)


def _open_pool(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_end_with_parent)


def _end_with_parent() -> None:
    """A killed parent closes no queues, so its workers would wait for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "only worker processes call this"

    def watch() -> None:
        parent.join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()


# Pixels by index


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
            self._pool = _open_pool(self._workers)
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
