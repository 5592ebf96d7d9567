"""Images that show the same picture: across train and test, within a split, and under two labels."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data.files import replacing
from data.sources import Pixels
from data.types import Split

Leaks = Literal["keep", "drop", "refuse"]
"""What happens to a train or unlabelled image that shows the picture of a test image."""

_VERSION = 1  # raised when `data.twins` finds other pairs
_CACHED = pa.schema(
    [
        pa.field("first", pa.int64(), nullable=False),
        pa.field("second", pa.int64(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("correlation", pa.float32(), nullable=False),
    ]
)


@dataclass(frozen=True)
class Picture:
    """What is compared of an image.

    Attributes:
        label: its class, or None.
        pixels: `data.twins.pixel_sha` of its pixels.
        thumbnail: bytes of `data.twins.thumbnail`.
    """

    label: int | None
    pixels: str
    thumbnail: bytes


@dataclass(frozen=True)
class Pair:
    """Two images that show the same picture.

    Attributes:
        first: position of an image.
        second: position of the other image.
        kind: equal (all pixels), near (a changed copy) or mirrored.
        correlation: of their detail, at most 1.
    """

    first: int
    second: int
    kind: str
    correlation: float


def find(
    pictures: Sequence[Picture],
    read: Callable[[NDArray[np.int64]], Iterable[Pixels]],
    remembered: Path | None = None,
) -> list[Pair]:
    """Find all pairs among some images.

    Args:
        pictures: N images.
        read: decodes the images at these positions, in this order.
        remembered: a folder where the result is kept, so that the same images are not compared again.
    """
    digest = hashlib.sha256(f"{_VERSION}\n".encode())
    for picture in pictures:
        digest.update(f"{picture.pixels}\n".encode())
    path = None if remembered is None else remembered / f"{digest.hexdigest()[:32]}.parquet"
    if path is not None:
        try:
            return [Pair(**row) for row in pq.read_table(path, schema=_CACHED).to_pylist()]
        except (OSError, pa.ArrowException):
            pass  # not compared yet, or damaged
    from data.twins import twins

    thumbnails = np.frombuffer(b"".join(picture.thumbnail for picture in pictures), np.uint8)
    found = [
        Pair(*twin)
        for twin in twins(thumbnails.reshape(-1, 16, 16), [picture.pixels for picture in pictures], read)
    ]
    if path is not None:
        columns = {name: [getattr(pair, name) for pair in found] for name in _CACHED.names}
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, durable=False) as draft:
            pq.write_table(pa.table(columns, schema=_CACHED), draft, compression="zstd")
    return found


def together(n: int, pairs: Sequence[Pair]) -> NDArray[np.int64]:
    """(n,) int64: a number per image, equal for images that pairs link, directly or through others."""
    from data.twins import groups

    linked = np.array([(pair.first, pair.second) for pair in pairs], np.int64).reshape(-1, 2)
    return groups(n, linked)


def leaked(splits: Sequence[Split], group: NDArray[np.int64]) -> dict[int, int]:
    """Train and unlabelled images that show the picture of a test image -> that test image.

    Args:
        splits: split of each image.
        group: `together` of the images.
    """
    test: dict[int, int] = {}
    for position, split in enumerate(splits):
        if split == "test":
            test.setdefault(int(group[position]), position)
    return {
        position: test[int(group[position])]
        for position, split in enumerate(splits)
        if split != "test" and int(group[position]) in test
    }


def conflicts(pictures: Sequence[Picture], pairs: Sequence[Pair]) -> list[Pair]:
    """Pairs of one picture under two labels. Mirrored ones do not count: b and d are two letters."""
    found = []
    for pair in pairs:
        one, other = pictures[pair.first].label, pictures[pair.second].label
        if pair.kind != "mirrored" and one is not None and other is not None and one != other:
            found.append(pair)
    return found
