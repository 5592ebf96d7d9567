"""Read images as squares for a network. An image that can't be read gives a reason in place of a square."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from data.decode import NO_IMAGE
from data.errors import DataError
from data.preprocessing import Preprocessing
from data.sources import Entry, Pixels, Source, Unreadable

TOGETHER = 16 << 20
"""Bytes of the squares that are decoded and passed to the network together."""
MOST = 512
"""Most images of a batch."""
FEW = 16
"""Images that are read together if only some are read."""


@dataclass(frozen=True)
class Wanted:
    """Images of one source that are read together. It can be pickled.

    Attributes:
        source: the source.
        entries: the images, n.
        rule: how they are prepared.
    """

    source: Source
    entries: list[Entry]
    rule: Preprocessing


@dataclass(frozen=True)
class Read:
    """Images that were read, at most `together` of them.

    Attributes:
        source: the name of the source.
        uris: name of each of n images.
        reasons: why an image can't be used, or None; n.
        squares: (m, S, S, C) uint8 of the m images without a reason, in order.
        left_out: number of files that are no images and were not meant to be.
    """

    source: str
    uris: list[str]
    reasons: list[str | None]
    squares: Pixels
    left_out: int


def together(rule: Preprocessing) -> int:
    """The number of images of a batch."""
    return max(8, min(MOST, TOGETHER // rule.shape.bytes))


def wanted(sources: Sequence[Source], rule: Preprocessing) -> Iterator[Wanted]:
    """All images of some sources, source by source, in lists that are cheap to read, in the order of reading.

    A list may be longer than a batch. A row group of a Parquet file, for example, is read as a whole.
    """
    for source in sources:
        for entries in source.batches(source.entries(), together(rule)):
            yield Wanted(source, entries, rule)


def read(work: Wanted) -> Iterator[Read]:
    """Read and decode images, batch by batch.

    Raises:
        DataError: a file that holds many images is damaged.
    """
    contents = zip(work.entries, _contents(work), strict=True)
    while batch := list(islice(contents, together(work.rule))):
        yield _decoded(work, batch)


def read_all(work: Wanted) -> list[Read]:
    """Read and decode images, all batches at once. This is for processes, which can't return an iterator.

    Raises:
        DataError: as for `read`.
    """
    return list(read(work))


def _decoded(work: Wanted, batch: list[tuple[Entry, bytes | Pixels | Unreadable]]) -> Read:
    uris: list[str] = []
    reasons: list[str | None] = []
    squares: list[Pixels] = []
    left_out = 0
    for entry, content in batch:
        reason: str | None = None
        if isinstance(content, Unreadable):
            reason = str(content)
        else:
            try:
                squares.append(work.rule.square(content))
            except DataError as error:
                reason = str(error)
        if reason == NO_IMAGE and not work.source.certain(entry):
            left_out += 1
            continue
        uris.append(entry.uri)
        reasons.append(reason)
    shape = work.rule.shape
    empty = np.zeros((0, shape.size, shape.size, shape.reading.channels), np.uint8)
    return Read(work.source.spec, uris, reasons, np.stack(squares) if squares else empty, left_out)


def read_some(source: Source, uris: Collection[str], rule: Preprocessing, until: float) -> dict[str, Pixels]:
    """Read some images of a source, in random order, for a limited time.

    Args:
        source: the source.
        uris: names of the images.
        rule: how they are prepared.
        until: value of time.monotonic after which no further images are read.

    Returns:
        uri -> (S, S, C) uint8, for the images that were read and can be decoded.

    Raises:
        DataError: a file that holds many images is damaged.
    """
    found: dict[str, Pixels] = {}
    batches = list(source.batches([entry for entry in source.entries() if entry.uri in uris], FEW))
    for at in np.random.default_rng(0).permutation(len(batches)):
        if time.monotonic() > until:
            break
        for made in read(Wanted(source, batches[at], rule)):
            good = [uri for uri, reason in zip(made.uris, made.reasons, strict=True) if reason is None]
            found |= dict(zip(good, made.squares, strict=True))
    return found


def _contents(work: Wanted) -> Iterator[bytes | Pixels | Unreadable]:
    """The content of each image. An entry that can't be read is skipped, and the next ones are still read."""
    done = 0
    while done < len(work.entries):
        try:
            for content in work.source.read(work.entries[done:]):
                done += 1
                yield content
        except OSError as error:
            done += 1
            yield Unreadable(f"it can't be read ({error.strerror or error})")
