"""A spool: one file with the encoded bytes of many images, any of which can be read quickly.

Some sources are fast only when they are read in order. If images are wanted in another order, they are first
copied to a spool. The file has three parts: the images, a little-endian (N, 2) int64 table of offset and size
in bytes, and N as int64.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from data.files import replacing
from data.sources import Entry, Listing, Pixels, Source

_NUMBER = np.dtype("<i8")


class SpoolSource(Source):
    """Images by their position in the spool. `Entry.place` is (offset, size), both in bytes."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"spool:{path}")
        self.path = path

    def _list(self) -> Listing:
        with self.path.open("rb") as file:
            file.seek(-_NUMBER.itemsize, os.SEEK_END)
            count = int(np.frombuffer(file.read(), _NUMBER)[0])
            end = file.tell() - _NUMBER.itemsize * (2 * count + 1)
            if count < 0 or end < 0:
                raise ValueError(f"{self.path} is not what was written: it can't have {count} images")
            file.seek(end)
            table = np.frombuffer(file.read(_NUMBER.itemsize * 2 * count), _NUMBER).reshape(count, 2)
        if (table < 0).any() or (table > end).any() or (table.sum(axis=1) > end).any():
            raise ValueError(f"{self.path} is not what was written: an image lies outside of it")
        places = ((int(start), int(size)) for start, size in table)
        return Listing(
            [Entry(f"{row:012d}", None, place[1], 0, place) for row, place in enumerate(places)], None
        )

    def read(self, entries: Sequence[Entry]) -> Iterator[bytes | Pixels]:
        """The encoded bytes of each image."""
        with self.path.open("rb") as file:
            for entry in entries:
                start, size = entry.place
                file.seek(start)
                yield file.read(size)


def write_spool(path: Path, images: Iterable[tuple[int, bytes]], count: int) -> None:
    """Write a spool. The file appears only when it is complete.

    Args:
        path: the file.
        images: (position, encoded bytes) in any order; each position in 0..count-1 comes once.
        count: number of images.
    """
    table = np.zeros((count, 2), _NUMBER)
    with replacing(path, durable=False) as draft, draft.open("wb") as file:
        for position, content in images:
            table[position] = file.tell(), len(content)
            file.write(content)
        file.write(table.tobytes())
        file.write(np.array([count], _NUMBER).tobytes())
