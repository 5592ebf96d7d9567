"""A spool: the bytes of many images one after the other in one file, so that any of them is one short read away.

Made from sources that are only read well in order, when images are wanted in another one. Layout: the images; a table
(N, 2) int64 of offset and bytes, little-endian; N as int64.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from data.sources import Entry, Listing, Pixels, Source

_NUMBER = np.dtype("<i8")


class SpoolSource(Source):
    """Images by position in the spool; `place` is (offset, bytes)."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"spool:{path}")
        self.path = path

    def _list(self) -> Listing:
        with self.path.open("rb") as file:
            file.seek(-_NUMBER.itemsize, os.SEEK_END)
            count = int(np.frombuffer(file.read(), _NUMBER)[0])
            file.seek(-_NUMBER.itemsize * (2 * count + 1), os.SEEK_END)
            table = np.frombuffer(file.read(_NUMBER.itemsize * 2 * count), _NUMBER).reshape(count, 2)
        places = ((int(start), int(size)) for start, size in table)
        return Listing([Entry(f"{row:012d}", None, place[1], 0, place) for row, place in enumerate(places)], None)

    def read(self, entries: Sequence[Entry]) -> Iterator[bytes | Pixels]:
        """Each image's bytes."""
        with self.path.open("rb") as file:
            for entry in entries:
                start, size = entry.place
                file.seek(start)
                yield file.read(size)


def write_spool(path: Path, images: Iterable[tuple[int, bytes]], count: int, draft: Path) -> None:
    """Writes a spool.

    Args:
        path: where it appears, whole.
        images: (position, bytes), each position in 0..count-1 once, in any order.
        count: how many.
        draft: where it is written; another one for each writer, and beside `path`.
    """
    table = np.zeros((count, 2), _NUMBER)
    try:
        with draft.open("wb") as file:
            for position, content in images:
                table[position] = file.tell(), len(content)
                file.write(content)
            file.write(table.tobytes())
            file.write(np.array([count], _NUMBER).tobytes())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
