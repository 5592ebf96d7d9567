"""Packs: memory-mapped files of decoded images. Each image is a square, found by the hash of its content.

An image is decoded once per size. The manifest's pass over the bytes writes the squares of all images that it
reads, and later only new images are decoded. A pack is two files: `squares-....npy`, which is (N, size, size,
C) uint8, and `squares-....sha`, with the 32 bytes of each image's sha256. A row without a square has a hash
of zeros. The second file is written last, so a pack that has one is complete. It ends with the size and the
hash of the first file, and with its own hash. A pack that is not what was written is deleted, and its images
are decoded again.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from data.decode import DECODE_VERSION, resize_shorter, resize_square, resize_squash, resize_within
from data.errors import StoreError
from data.files import Checked, file_sha256, replacing
from data.reading import Reading
from data.sources import Pixels

_HASH = np.dtype("V32")
_MARK = b"sealed 1"
_END = len(_MARK) + 8 + 32
NONE = bytes(_HASH.itemsize)
"""The hash of a row that holds no square."""


Fit = Literal["square", "shorter", "squash"]
"""How an image becomes a square.

square: crop the central square, then resize it. shorter: resize the shorter side, then crop, as torchvision
and timm do. squash: resize both sides, whatever the aspect ratio, as SigLIP does.
"""


@dataclass(frozen=True)
class Way:
    """How an image is resized to a square.

    Attributes:
        fit: see `Fit`.
        interpolation: one of Pillow's filters, in lower case.
        window: for `shorter`, the side of the crop that the network takes from the square, px.
    """

    fit: Fit = "square"
    interpolation: str = "bicubic"
    window: int = 0


USUAL = Way()
"""The way of all networks that we train ourselves."""


@dataclass(frozen=True)
class Shape:
    """Which part of an image is kept: its central square, or the whole image fitted into a square.

    Attributes:
        size: side of the square in pixels.
        whole: whether the whole image is fitted in.
        reading: how the image is decoded.
        way: how the image is resized, unless the whole image is fitted in.
    """

    size: int
    whole: bool = False
    reading: Reading = Reading()  # noqa: RUF009  # it is immutable
    way: Way = USUAL

    def of(self, pixels: Pixels) -> Pixels:
        """(H, W, C) uint8 -> (size, size, C) uint8."""
        if self.whole:
            return resize_within(pixels, self.size)
        match self.way.fit:
            case "square":
                return resize_square(pixels, self.size, self.way.interpolation)
            case "shorter":
                return resize_shorter(pixels, self.size, self.way.window, self.way.interpolation)
            case "squash":
                return resize_squash(pixels, self.size, self.way.interpolation)

    @property
    def bytes(self) -> int:
        """Bytes of one square."""
        return self.size * self.size * self.reading.channels

    @property
    def key(self) -> str:
        """A name for all that decides the pixels. Shapes whose squares may differ have different keys."""
        recorded = self.reading.recorded()
        kept = f"{'whole' if self.whole else ''}{json.dumps(recorded, sort_keys=True) if recorded else ''}"
        if self.way != USUAL:
            kept += f"\n{self.way}"
        return hashlib.sha256(f"{DECODE_VERSION}\n{self.size}\n{kept}".encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Found:
    """Where the squares of N images are.

    Attributes:
        files: the packs.
        file: (N,) int32, position in `files`; -1 for an image without a square.
        row: (N,) int64, row in that file.
    """

    files: tuple[Path, ...]
    file: NDArray[np.int32]
    row: NDArray[np.int64]

    @property
    def missing(self) -> NDArray[np.int64]:
        """Positions of the images without a square, ascending."""
        return np.flatnonzero(self.file < 0)


def look(
    folder: Path,
    shape: Shape,
    sha256: Sequence[str],
    checked: Checked | None = None,
    note: Callable[[str], None] = lambda line: None,
) -> Found:
    """Find the squares of images among the packs of a folder. Damaged packs are deleted.

    Args:
        folder: the folder of the packs.
        shape: the shape of the squares.
        sha256: content hash of each of N images.
        checked: hashes of files that this run has read.
        note: gets a line about each damaged pack.
    """
    checked = checked or Checked()
    wanted = _hashes([bytes.fromhex(text) for text in sha256])
    file, row = np.full(len(wanted), -1, np.int32), np.zeros(len(wanted), np.int64)
    files: list[Path] = []
    for index in sorted(folder.glob(f"{_stem(shape)}-*.sha")):
        squares = index.with_suffix(".npy")
        try:
            there, seal = _read_index(index)
        except FileNotFoundError:
            continue  # another process has just deleted it
        if seal is None or not squares.exists() or squares.stat().st_size != seal.size:
            delete(index, note)
            continue
        order = np.argsort(there.view("S32"), kind="stable")
        at = np.minimum(np.searchsorted(there.view("S32"), wanted.view("S32"), sorter=order), len(there) - 1)
        mine = (there[order[at]] == wanted) & (file < 0)
        if mine.any() and checked.sha256(squares) != seal.sha256:
            delete(index, note)
        elif mine.any():
            file[mine], row[mine] = len(files), order[at][mine]
            files.append(squares)
    return Found(tuple(files), file, row)


class _Seal(NamedTuple):
    """What the squares of a pack were when they were written: size in bytes, and hash."""

    size: int
    sha256: str


def _read_index(path: Path) -> tuple[NDArray[np.void], _Seal | None]:
    """Read a pack's second file. It has no seal if it is damaged, or from before packs had one."""
    content = path.read_bytes()
    rows, seal, own = content[: -_END - 32], content[-_END - 32 : -32], content[-32:]
    whole = hashlib.sha256(rows + seal).digest() == own and seal.startswith(_MARK)
    if not whole or len(rows) % _HASH.itemsize or not rows:
        return np.zeros(0, _HASH), None
    size, sha256 = seal[len(_MARK) : len(_MARK) + 8], seal[len(_MARK) + 8 :]
    return np.frombuffer(rows, _HASH), _Seal(int.from_bytes(size, "little"), sha256.hex())


def damaged(folder: Path, progress: Callable[[int], None] = lambda size: None) -> Iterator[Path]:
    """The second files of all damaged packs of a folder. All squares are read.

    Args:
        folder: the folder of the packs.
        progress: gets the bytes of each pack that was read.
    """
    for index in sorted(folder.glob("squares-*.sha")):
        squares = index.with_suffix(".npy")
        try:
            _, seal = _read_index(index)
            size = squares.stat().st_size
            if seal is None or size != seal.size or file_sha256(squares) != seal.sha256:
                yield index
            progress(size)
        except FileNotFoundError:
            yield index


def hashes_in(index: Path) -> set[bytes]:
    """The content hashes of the images in a pack, given its second file; none if that is damaged."""
    there, _ = _read_index(index)
    return {row.tobytes() for row in there} - {NONE}


def delete(index: Path, note: Callable[[str], None] = lambda line: None) -> None:
    """Delete a damaged pack, given its second file."""
    index.unlink(missing_ok=True)
    index.with_suffix(".npy").unlink(missing_ok=True)
    note(
        f"{index.with_suffix('.npy')} is not what was written, or is from an earlier version; "
        "it is deleted, and its images are decoded again"
    )


@contextmanager
def new_pack(folder: Path, shape: Shape, count: int) -> Iterator[tuple[Path, list[bytes]]]:
    """Make a pack. It appears when the block ends without an error.

    Args:
        folder: the folder of the packs; it is created if missing.
        shape: the shape of the squares.
        count: number of rows.

    Yields:
        The .npy file to write squares to (`Squares`), and the hash of each row, to be filled in.

    Raises:
        StoreError: the disk has no room.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{_stem(shape)}-{secrets.token_hex(8)}.npy"
    hashes = [NONE] * count
    with replacing(path, durable=False) as draft:
        _reserve(draft, (count, shape.size, shape.size, shape.reading.channels))
        yield draft, hashes
    rows = b"".join(hashes)
    seal = _MARK + path.stat().st_size.to_bytes(8, "little") + bytes.fromhex(file_sha256(path))
    with replacing(path.with_suffix(".sha"), durable=False) as draft:
        draft.write_bytes(rows + seal + hashlib.sha256(rows + seal).digest())


class Squares:
    """Writes squares to the rows of a pack. Several processes may write to different rows of one pack.

    It writes to the file, because the first write to each page of a memory map costs more than the copy.

    Args:
        path: the file that `new_pack` yields.
    """

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            assert version == (1, 0), version  # what `_reserve` writes
            (_, *square), _, _ = np.lib.format.read_array_header_1_0(file)
            self._start = file.tell()
        self._shape = tuple(square)
        self._file = path.open("r+b", buffering=0)

    def write(self, row: int, square: Pixels) -> None:
        """Write one square.

        Raises:
            StoreError: the disk has no room, and the file system could not reserve any.
        """
        assert square.shape == self._shape, (square.shape, self._shape)
        left = np.ascontiguousarray(square).reshape(-1).data
        try:
            self._file.seek(self._start + row * square.nbytes)
            while len(left):
                left = left[self._file.write(left) :]
        except OSError as error:
            raise StoreError(f"{self._file.name}: the pixels can't be written ({error})") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


def _stem(shape: Shape) -> str:
    return f"squares-{shape.size}-{shape.key}"


def _hashes(values: list[bytes]) -> NDArray[np.void]:
    return np.frombuffer(b"".join(values), _HASH)


def _reserve(path: Path, shape: tuple[int, ...]) -> None:
    """Create an .npy file of zeros and reserve its space on disk.

    Writing to a memory map on a full disk would crash the process. Here a full disk is an ordinary error.
    """
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
                    "free some space, or lower data.image_size"
                ) from None
            # Any other error means that the file system can't reserve space.
