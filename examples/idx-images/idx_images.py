"""Images in the IDX format, in which MNIST and its relatives are published."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from knowledge_transfer.plugins import DataError, Entry, Listing, Source

TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
"""Third byte of a file -> type of its values."""


class IdxSource(Source):
    """a folder with MNIST's IDX files: train-images..., train-labels..., t10k-images..., packed or not."""

    form: ClassVar[str] = "idx:PATH"
    parallel = False  # all pixels are in memory

    def _file(self, what: str) -> Path | None:
        prefix = "t10k" if self.role == "test" else "train"
        return next(iter(sorted(Path(self.place).expanduser().glob(f"{prefix}-{what}-idx*"))), None)

    @cached_property
    def _images(self) -> tuple[Path, NDArray[np.uint8]]:
        path = self._file("images")
        if path is None:
            raise DataError(
                f"{self.spec}: no ...-images-idx3-ubyte there; give the folder that holds MNIST's files"
            )
        return path, read_idx(path).astype(np.uint8)

    def _list(self) -> Listing:
        path, images = self._images
        labels = self._file("labels")
        given = [None] * len(images) if labels is None else read_idx(labels).tolist()
        if len(given) != len(images):
            raise DataError(f"{self.spec}: {len(images)} images and {len(given)} labels")
        known = sorted({label for label in given if label is not None})
        status = path.stat()
        entries = [
            Entry(
                f"{i:06d}",
                None if label is None else known.index(label),
                status.st_size,
                status.st_mtime_ns,
                i,
            )
            for i, label in enumerate(given)
        ]
        return Listing(entries, tuple(map(str, known)) or None)

    def read(self, entries: Sequence[Entry]) -> Iterator[NDArray[np.uint8]]:
        """The grey images as RGB."""
        for entry in entries:
            yield np.repeat(self._images[1][entry.place][..., None], 3, axis=2)


def read_idx(path: Path) -> NDArray[np.generic]:
    """An array from an IDX file.

    Raises:
        DataError: the file is no IDX file, or ends early.
    """
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] not in TYPES:
        raise DataError(f"{path}: no IDX file")
    head = 4 + 4 * raw[3]
    shape = np.frombuffer(raw[4:head], ">u4").astype(np.int64)
    values = np.frombuffer(raw[head:], TYPES[raw[2]])
    if values.size != shape.prod():
        raise DataError(f"{path}: {values.size} values, not {shape.prod()}; the file is damaged")
    return values.reshape(shape)
