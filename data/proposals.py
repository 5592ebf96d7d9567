"""Propose pairs of images that may show the same picture, by difference hashes of their thumbnails."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from data import draws
from data.sources import Pixels
from data.spread import INLINE, Threads
from data.thumbnails import SIDE

RADIUS = 40
"""Hashes that differ in at most this many of their 256 bits propose a pair.

Of 5 % crops of photographs, 97 % are within 35 bits. Of random pairs of CIFAR-10, few in a million are within
40.
"""

NEAREST = 32
"""An image keeps only this many proposed pairs, the nearest ones. A pair stays if either image keeps it."""

CUT = 0.05
"""Images are also hashed without this share of their height, their width, or both."""

_FLAT = 4  # an image is flat if its darkest and its brightest cell differ by at most this many grey levels
_FREQUENCIES = 7  # in each direction, 0 to 3 cycles per image: a shift by 2.5 % changes few signs
_BYTES = 32  # length of a hash
_HASHED = 1 << 14  # number of thumbnails that are hashed at once
_EXACT = 2048  # up to this number of images, all pairs are compared
_TABLES = 32  # number of tables, each with another choice of bytes
_STEPS = 32  # number of neighbours on each side that an image is compared with in a table
_ASKED = 1 << 15  # number of images whose neighbours in a table are looked up at once
_CLOSE = 8  # a pair is very near if its hashes differ in at most this many bits
# The bits that differ in a mirrored image's hash.
_MIRROR = np.array([0, 0, ~0, ~0], np.int64).view(np.uint64)


class Proposals(NamedTuple):
    """Pairs of images, each (P, 2) int64 with first < second, in ascending order.

    Attributes:
        near: pairs that may show the same picture.
        mirrored: pairs whose first image may show the mirror image of the second.
    """

    near: NDArray[np.int64]
    mirrored: NDArray[np.int64]


# The hash


def difference_hash(
    thumbnails: Pixels, *, crops: bool = False, threads: Threads = INLINE
) -> NDArray[np.uint64]:
    """Hash thumbnails. Similar images have hashes that differ in few bits.

    Each bit is the sign of a random weighted sum of the low frequencies. Each frequency counts in proportion
    to its number, as in a difference of neighbours: an image's coarsest shades say least about it.
    Mirroring an image keeps the first 128 bits and inverts the last 128, which are the last two words.

    Args:
        thumbnails: (N, 16, 16) uint8.
        crops: whether to also hash the images without their first or last 5 %, in each direction.
        threads: the threads that do the work.

    Returns:
        (1, N, 4) uint64, or (9, N, 4) with crops. The first is the hash of the whole image.
    """
    windows = [(0.0, 1.0), (CUT, 1.0), (0.0, 1 - CUT)] if crops else [(0.0, 1.0)]
    flat = thumbnails.reshape(len(thumbnails), SIDE**2)
    found = np.empty((len(windows) ** 2, len(flat), 4), np.uint64)

    def fill(start: int) -> None:
        part = flat[start : start + _HASHED].astype(np.float32)
        for i, (rows, columns) in enumerate(product(windows, repeat=2)):
            bits = part @ _frequencies(rows, columns) @ _weightings() > 0
            found[i, start : start + len(part)] = np.packbits(bits, axis=1).view(np.uint64)

    for _ in threads.map(fill, range(0, len(flat), _HASHED)):
        pass
    return found


@cache
def _frequencies(rows: tuple[float, float], columns: tuple[float, float]) -> NDArray[np.float32]:
    """(256, 49): a thumbnail's window -> its low frequencies times their frequency."""
    k = np.arange(_FREQUENCIES)
    both = np.einsum("ki,lj->ijkl", _cosines(rows), _cosines(columns)) * np.hypot(k[:, None], k)
    return np.asarray(both.reshape(SIDE**2, -1), np.float32)


def _cosines(window: tuple[float, float]) -> NDArray[np.float64]:
    """(7, 16): the cosine transform of a window of 16 values, which are interpolated linearly."""
    place = (np.arange(240) + 0.5) / 240
    where = (window[0] + (window[1] - window[0]) * place) * SIDE - 0.5
    weights = np.maximum(0, 1 - np.abs(np.clip(where, 0, SIDE - 1)[:, None] - np.arange(SIDE)))
    waves = np.cos(np.pi * np.arange(_FREQUENCIES)[:, None] * place)
    waves[1:] *= np.sqrt(2)
    return np.asarray(waves @ weights / len(place))


@cache
def _weightings() -> NDArray[np.float32]:
    """(49, 256): normal random weights. The first half of the columns uses frequencies that are even in x."""
    count = _FREQUENCIES**2
    uniform = draws.uniform(draws.key(0, "difference hash"), np.arange(count), _BYTES * 8)
    odd = np.arange(count) % _FREQUENCIES % 2 == 1
    half = np.arange(_BYTES * 8) >= _BYTES * 4
    return np.where(odd[:, None] == half, ndtri(np.clip(uniform, 1e-12, None)), 0).astype(np.float32)


# Proposals

_Compared = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint16]]
"""Positions of images and of other images, and how many bits differ: at most `RADIUS`."""


def propose(thumbnails: Pixels, *, mirrored: bool = True, threads: Threads = INLINE) -> Proposals:
    """Find pairs whose hashes differ in at most `RADIUS` bits, with a crop of one image or without.

    Up to 2,048 images, all pairs are compared. With more images, a pair is compared only if 3 chosen bytes of
    its hashes are equal. This is repeated with 32 choices of bytes, which together find nearly all pairs of
    photographs. Time and memory grow about linearly with N, even if all images are alike. The reason is that
    an image is compared with a bounded number of neighbours, and keeps at most `NEAREST` pairs.

    Args:
        thumbnails: (N, 16, 16) uint8. Flat ones are never in a pair.
        mirrored: whether to compare images with mirror images, too.
        threads: the threads that do the work.

    Returns:
        The pairs. They do not depend on the number of threads.
    """
    some = np.flatnonzero(np.ptp(thumbnails, axis=(1, 2)) > _FLAT)
    hashes = difference_hash(thumbnails[some], crops=True, threads=threads)
    inverted = [np.zeros_like(_MIRROR), *([_MIRROR] if mirrored else [])]
    searches = [_Search(bits, _Nearest(len(some))) for bits in inverted]
    compare = _every_pair if len(some) <= _EXACT else _same_keys
    for search, found in compare(hashes, searches, threads):
        search.nearest.add(*found)
    pairs = [some[search.nearest.pairs()] for search in searches]
    return Proposals(pairs[0], pairs[1] if mirrored else np.empty((0, 2), np.int64))


class _Search(NamedTuple):
    """A search for pairs: the bits of the hash that it inverts, and the pairs that it has found so far."""

    inverted: NDArray[np.uint64]
    nearest: _Nearest


class _Nearest:
    """The nearest pairs of each of n images."""

    def __init__(self, n: int) -> None:
        self._n = n
        self._code = np.empty(0, np.int64)  # first * n + second, ascending
        self._distance = np.empty(0, np.uint16)
        self.full = np.zeros(n, np.bool_)
        """Whether an image has `NEAREST` very near pairs, so that it needs no more."""

    def add(self, one: NDArray[np.int64], other: NDArray[np.int64], distance: NDArray[np.uint16]) -> None:
        """Add pairs in any order. Then keep those that are among the nearest of either image."""
        code = np.minimum(one, other) * self._n + np.maximum(one, other)
        new = ~self._has(code, distance)
        if not new.any():
            return
        code = np.concatenate([self._code, code[new]])
        distance = np.concatenate([self._distance, distance[new]])
        order = np.lexsort((distance, code))
        order = order[np.diff(code[order], prepend=-1) > 0]
        code, distance = code[order], distance[order]
        ends = np.concatenate([code // self._n, code % self._n])
        if np.bincount(ends, minlength=self._n).max() > NEAREST:
            by_image = np.lexsort((np.tile(distance, 2), ends))
            starts = np.searchsorted(ends[by_image], np.arange(self._n))
            rank = np.empty(len(ends), np.int64)
            rank[by_image] = np.arange(len(ends)) - starts[ends[by_image]]
            kept = (rank < NEAREST).reshape(2, -1).any(axis=0)
            code, distance = code[kept], distance[kept]
            close = np.tile(distance <= _CLOSE, 2)
            ends = np.concatenate([code // self._n, code % self._n])[close]
            self.full = np.bincount(ends, minlength=self._n) >= NEAREST
        self._code, self._distance = code, distance

    def _has(self, code: NDArray[np.int64], distance: NDArray[np.uint16]) -> NDArray[np.bool_]:
        """Whether each pair is there already, and as near. Most are: many tables find the same pairs."""
        if not len(self._code):
            return np.zeros(len(code), np.bool_)
        at = np.minimum(np.searchsorted(self._code, code), len(self._code) - 1)
        return np.asarray((self._code[at] == code) & (self._distance[at] <= distance), np.bool_)

    def pairs(self) -> NDArray[np.int64]:
        """(P, 2), first < second, ascending."""
        return np.stack([self._code // self._n, self._code % self._n], axis=1)


def _every_pair(
    hashes: NDArray[np.uint64], searches: list[_Search], threads: Threads
) -> Iterator[tuple[_Search, _Compared]]:
    """Compare each of the (9, N, 4) hashes with the hashes of all whole images."""
    signs = _signs(hashes[0])

    def compare(task: tuple[_Search, NDArray[np.uint64], int]) -> tuple[_Search, _Compared]:
        search, query, start = task
        asked = _signs(query[start : start + 256] ^ search.inverted)
        distance = (_BYTES * 8 - asked @ signs.T) / 2
        one, other = np.nonzero(distance <= RADIUS)
        one, other, bits = one + start, other, distance[one, other].astype(np.uint16)
        return search, _of_two(one, other, bits)

    starts = range(0, len(signs), 256)
    yield from threads.map(compare, product(searches, hashes, starts))


def _signs(hashes: NDArray[np.uint64]) -> NDArray[np.float32]:
    """(N, 4) hashes -> (N, 256), 1 or -1."""
    return np.unpackbits(hashes.view(np.uint8), axis=1).astype(np.float32) * 2 - 1


def _same_keys(
    hashes: NDArray[np.uint64], searches: list[_Search], threads: Threads
) -> Iterator[tuple[_Search, _Compared]]:
    """Compare each of the (9, N, 4) hashes with the whole images that have the same start in a table."""
    whole = hashes[0]
    for number in range(_TABLES):
        columns = draws.permutation(draws.key(0, "table", number), _BYTES)[:8]
        table = _Table(whole, columns)
        for query in hashes:
            # The results of one part must not change what the next part asks, whatever the number of threads.
            asking = [(search, ~search.nearest.full) for search in searches]
            parts = [slice(start, start + _ASKED) for start in range(0, len(whole), _ASKED)]
            tasks = [(search, query, asks, part) for part in parts for search, asks in asking]
            yield from threads.map(table.compare, tasks)


class _Table:
    """Images in the order of their keys. A key is 8 bytes of the hash, and its first 3 bytes are its *start*.

    An image finds its place by all 8 bytes. It *meets* the images with the same start in the `_STEPS` places
    before and after this one.

    Args:
        whole: (N, 4), the hashes of the images.
        columns: (8,), which bytes make the key.
    """

    def __init__(self, whole: NDArray[np.uint64], columns: NDArray[np.int64]) -> None:
        self._whole, self._columns = whole, columns
        self._start = _starts(whole, columns)
        keys = _keys(whole, columns)
        self._order = np.argsort(keys, kind="stable")
        self._keys = keys[self._order]
        starts = self._start[self._order]
        begins = np.flatnonzero(np.diff(starts, prepend=~starts[:1]))
        sizes = np.diff(begins, append=len(starts))
        # For each place in the order: where the images with the same start begin and end.
        self._low, self._high = np.repeat(begins, sizes), np.repeat(begins + sizes, sizes)
        # Most starts occur in no other image. Looking that up here is faster than searching for them.
        self._count = np.zeros(1 << 24, np.uint8)  # number of images with a start; 2 stands for 2 or more
        self._count[starts[begins]] = np.minimum(sizes, 2)

    def compare(
        self, task: tuple[_Search, NDArray[np.uint64], NDArray[np.bool_], slice]
    ) -> tuple[_Search, _Compared]:
        """Compare images with those that they meet.

        Args:
            task: the search; (N, 4) hashes; (N,) bool, whether an image asks; and a part of the images.
        """
        search, query, asks, part = task
        start = _starts(query[part], self._columns) ^ _starts(search.inverted[None], self._columns)
        others = self._count[start] > (start == self._start[part])  # an image also meets itself
        asked = np.flatnonzero(others & asks[part]) + part.start
        hashes = query[asked] ^ search.inverted
        keys = _keys(hashes, self._columns)
        place = np.searchsorted(self._keys, keys)
        at = np.minimum(place, len(self._keys) - 1)
        at -= (self._keys[at] ^ keys) >> np.uint64(40) != 0
        low, high = np.maximum(self._low[at], place - _STEPS), np.minimum(self._high[at], place + _STEPS)
        count = high - low
        one = np.repeat(np.arange(len(asked)), count)
        met = np.arange(len(one)) + np.repeat(low - (np.cumsum(count) - count), count)
        other = self._order[met]
        different = np.bitwise_count(hashes[one] ^ self._whole[other])
        distance = different[:, 0].astype(np.uint16)
        for word in (1, 2, 3):
            distance += different[:, word]
        near = distance <= RADIUS
        return search, _of_two(asked[one[near]], other[near], distance[near])


def _of_two(one: NDArray[np.int64], other: NDArray[np.int64], distance: NDArray[np.uint16]) -> _Compared:
    """Leave out the pairs of an image with itself."""
    two = one != other
    return one[two], other[two], distance[two]


def _starts(hashes: NDArray[np.uint64], columns: NDArray[np.int64]) -> NDArray[np.uint32]:
    """The starts of the keys: (N, 4) hashes -> (N,) uint32 below 2**24."""
    first, second, third = (hashes.view(np.uint8)[:, column] for column in columns[:3])
    shifted = first.astype(np.uint32) << 16 | second.astype(np.uint32) << 8 | third
    return np.asarray(shifted, np.uint32)


def _keys(hashes: NDArray[np.uint64], columns: NDArray[np.int64]) -> NDArray[np.uint64]:
    """The keys: (N, 4) hashes -> (N,) uint64 of 8 of their bytes, with the first one as the highest."""
    chosen = hashes.view(np.uint8)[:, columns]
    return np.ascontiguousarray(chosen).view(">u8")[:, 0].astype(np.uint64)
