"""Images that show the same picture: across train and test, within a split, and under two labels."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data.decode import measure
from data.errors import DataError
from data.files import read_sealed, write_sealed
from data.measured import Row
from data.reading import Reading
from data.schemas import TWINS
from data.sources import Pixels, Source, Unreadable
from data.types import SPLITS, Split
from data.wording import counted

Leaks = Literal["keep", "drop", "refuse"]
"""What happens to a train or unlabelled image that shows the picture of a test image."""

_EXAMPLES = 3  # how many leaks an error names
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
        pixels: `data.thumbnails.pixel_sha` of its pixels.
        thumbnail: bytes of `data.thumbnails.thumbnail`.
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
        correlation: of the fine detail of the two pictures (`data.confirmation`), at most 1.
    """

    first: int
    second: int
    kind: str
    correlation: float


def find(
    pictures: Sequence[Picture],
    read: Callable[[NDArray[np.int64]], Iterable[tuple[int, Pixels]]],
    remembered: Path | None = None,
    workers: int = 0,
) -> list[Pair]:
    """Find all pairs among some images.

    Args:
        pictures: N images.
        read: decodes the images at these positions; yields each position and its pixels, in any order.
        remembered: a folder where the result is kept, so that the same images are not compared again.
        workers: number of threads.
    """
    digest = hashlib.sha256(f"{_VERSION}\n".encode())
    for picture in pictures:
        digest.update(f"{picture.pixels}\n".encode())
    path = None if remembered is None else remembered / f"{digest.hexdigest()[:32]}.parquet"
    if path is not None:
        try:
            content = read_sealed(path)
            if content is not None:
                table = pq.read_table(pa.BufferReader(content), schema=_CACHED)
                return [Pair(**row) for row in table.to_pylist()]
        except (OSError, pa.ArrowException):
            pass  # not compared yet, or damaged
    from data.twins import twins

    thumbnails = np.frombuffer(b"".join(picture.thumbnail for picture in pictures), np.uint8)
    hashes = [picture.pixels for picture in pictures]
    found = [Pair(*twin) for twin in twins(thumbnails.reshape(-1, 16, 16), hashes, read, workers=workers)]
    if path is not None:
        columns = {name: [getattr(pair, name) for pair in found] for name in _CACHED.names}
        path.parent.mkdir(parents=True, exist_ok=True)
        content_of = pa.BufferOutputStream()
        pq.write_table(pa.table(columns, schema=_CACHED), content_of, compression="zstd")
        write_sealed(path, content_of.getvalue().to_pybytes())
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


def equal_pixels(rows: list[Row]) -> list[Pair]:
    """Pair each image with the first image that has the same pixels."""
    first: dict[str, int] = {}
    pairs = []
    for position, row in enumerate(rows):
        owner = first.setdefault(row.measured.pixels or row.measured.sha256, position)
        if owner != position:
            pairs.append(Pair(owner, position, "equal", 1.0))
    return pairs


def decode_again(
    sources: dict[Split, Source], rows: list[Row], wanted: NDArray[np.int64], reading: Reading
) -> Iterator[tuple[int, Pixels]]:
    """Decode the wanted rows again, in the order that is fastest to read. Yields their positions as well."""
    for role, source in sources.items():
        mine = [i for i in wanted.tolist() if rows[i].role == role]
        mine.sort(key=lambda i: rows[i].entry.place)
        contents = source.read([rows[i].entry for i in mine])
        for i, data in zip(mine, contents, strict=True):
            if isinstance(data, Unreadable):
                raise DataError(f"{rows[i].entry.uri!r} of {source.spec}: {data}; run again")
            yield i, measure(data, reading, lambda pixels: pixels).kept


def same_pictures(
    every: list[Row],
    splits: list[Split | None],
    pairs: list[Pair],
    group: NDArray[np.int64],
    classes: tuple[str, ...] | None,
) -> list[str]:
    """Sentences about images that show the same picture."""
    kept = [split or "train" for split in splits]
    equal = together(len(every), [pair for pair in pairs if pair.kind == "equal"])
    notes = []
    tests = kept.count("test")
    for split, where, so in (
        ("train", "train", "so scores may be too high"),
        ("unlabelled", "data.unlabelled", "so the student trains on test images"),
    ):
        there, same = set(group[_at(kept, split)].tolist()), set(equal[_at(kept, split)].tolist())
        found = [position for position in _at(kept, "test") if int(group[position]) in there]
        exact = sum(int(equal[position]) in same for position in found)
        if found:
            notes.append(
                f"{len(found)} of {tests} test images are also in {where} ({exact} with equal pixels, "
                f"{len(found) - exact} nearly), {so}; data.leaks=drop leaves the {where} images out"
            )
    pictures = [Picture(row.label, "", b"") for row in every]
    found_conflicts = conflicts(pictures, pairs)
    if found_conflicts and classes is not None:
        one, other = (every[i] for i in (found_conflicts[0].first, found_conflicts[0].second))
        assert one.label is not None
        assert other.label is not None
        notes.append(
            f"{counted(len(found_conflicts), 'image has', 'images have')} two labels, because the "
            "same picture lies in two classes; "
            f"first {one.entry.uri!r} and {other.entry.uri!r}: "
            f"{classes[one.label]} and {classes[other.label]}"
        )
    trained = [*_at(kept, "train"), *_at(kept, "unlabelled")]
    different = len(set(group[trained].tolist()))
    if different < len(trained):
        copies = len(trained) - different
        notes.append(f"{copies} of {len(trained)} training images are copies of others, or nearly")
    return notes


def _at(splits: list[Split], wanted: str) -> list[int]:
    return [position for position, split in enumerate(splits) if split == wanted]


def leave_out(
    every: list[Row], splits: list[Split | None], group: NDArray[np.int64], leaks: Leaks
) -> list[tuple[str, str, str]]:
    """Drop the train and unlabelled images that show a test image's picture, or raise an error.

    Returns:
        Their rows for the table of rejected images.

    Raises:
        DataError: there are some, and `leaks` is refuse.
    """
    if leaks == "keep":
        return []
    found = leaked([split or "train" for split in splits], group)
    if found and leaks == "refuse":
        examples = "; ".join(
            f"{every[i].entry.uri!r} ({splits[i]}) is {every[j].entry.uri!r} (test)"
            for i, j in list(found.items())[:_EXAMPLES]
        )
        raise DataError(
            f"{len(found)} training images show the picture of a test image: {examples}. Remove them, or set "
            "data.leaks=drop or keep"
        )
    rejected: list[tuple[str, str, str]] = []
    for i, j in found.items():
        row = every[i]
        rejected.append((row.role, row.entry.uri, f"it shows the test image {every[j].entry.uri!r}"))
        splits[i] = None
    return rejected


def twins_table(every: list[Row], splits: list[Split | None], pairs: list[Pair]) -> pa.Table:
    """The pairs, with indices in the table of images. Pairs across test and the other splits come first."""
    order = [i for split in SPLITS for i, own in enumerate(splits) if own == split]
    index = {position: row for row, position in enumerate(order)}

    def rank(pair: Pair) -> tuple[bool, bool, int, int]:
        tested = {splits[pair.first] == "test", splits[pair.second] == "test"}
        return (len(tested) == 1, pair.kind != "equal", pair.first, pair.second)

    rows = [
        {
            "first": index.get(pair.first),
            "second": index.get(pair.second),
            "first_split": splits[pair.first] or every[pair.first].role,
            "first_uri": every[pair.first].entry.uri,
            "second_split": splits[pair.second] or every[pair.second].role,
            "second_uri": every[pair.second].entry.uri,
            "kind": pair.kind,
            "correlation": pair.correlation,
        }
        for pair in sorted(pairs, key=rank)
    ]
    return pa.Table.from_pylist(rows, schema=TWINS)
