"""Near-duplicate images ("twins"): a difference hash proposes pairs, and aligned pixels confirm them.

Each image is decoded once, and leaves two things: `pixel_sha`, which is the exact identity of its pixels, and
`thumbnail`, the mean green of 16x16 cells. `twins` finds the pairs from these. It decodes again only the
images of pairs that the thumbnails can't rule out.

1. Images with equal pixels form a group. Each gives one pair, with the first image of the group. Only the
   first image takes part in what follows.
2. `propose` compares difference hashes. A bit of the hash says which of two weighted parts of the image is
   brighter. To survive a crop, each image is also hashed without its first or last 5 % in each direction.
3. The thumbnails of a proposed pair are aligned. Most pairs are ruled out here, without decoding.
4. `confirm` aligns the pixels themselves and correlates their detail. Detail tells images apart that only
   share a layout: two cells on a plain background, two letters, two textures under the same light.

A copy may be re-encoded, resized (also with another aspect ratio), shifted or cropped by up to 8 % of each
side (at 10 %, nine in ten are found), and brighter or darker. Copies that are rotated, drawn on, or
recoloured to another pattern of light and dark are not found.

Images with a side below `SMALLEST` pixels have too few pixels to say more than "equal". The same holds for
flat images, whose thumbnail has no contrast. For both, only equal pixels count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from itertools import product
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.special import ndtri

from data import draws
from data.decode import content_sha256
from data.sources import Pixels

SMALLEST = 16
"""Images with a side of fewer pixels are twins only if their pixels are equal."""

RADIUS = 40
"""Hashes that differ in at most this many of their 256 bits propose a pair.

Of 5 % crops of photographs, 97 % are within 35 bits. Of random pairs of CIFAR-10, few in a million are within
40.
"""

NEAREST = 32
"""An image keeps this many proposed pairs, the nearest ones. A pair stays if either image keeps it."""

CORRELATION = 0.96
"""Twins have at least this correlation of their detail.

Of JPEG copies (quality 70) of 32-pixel images, 99 % reach 0.97. Different photographs, tiles or textures stay
below 0.9. Very similar drawings of one letter reach 0.97: of 2,480 letters, a few pairs count as twins.
"""

SPARSE_CORRELATION = 0.985
"""The same for images whose detail is in few pixels (`SPARSE`). Two small drawn circles reach 0.985."""

SPARSE = 260
"""Images with detail in fewer pixels than this, of at most 64x64, are sparse: a small letter, a line."""

AGREEMENT = 0.75
"""Twins agree at least this well in every part, else one shows something that the other lacks."""

Kind = Literal["equal", "near", "mirrored"]

_SIDE = 16  # of a thumbnail
_SAMPLES = 112  # about this many rows and columns of a large image make its thumbnail
_FLAT = 4  # grey levels between the darkest and the brightest cell of a flat image, at most
_FREQUENCIES = 7  # 0 to 3 cycles per image: a shift by 2.5 % changes few signs
_CUT = 0.05
_BYTES = 32  # of a hash
_EXACT = 2048  # up to this number of images, all pairs are compared
_TABLES = 32
_STEPS = 32  # neighbours on each side that an image is compared with in a table
_CLOSE = 8  # bits
_BATCH = 512  # pairs
_KEPT = 128  # longest side, in pixels, of what is kept of a decoded image
_SIZES = (64, 48, 32, 24, 16)  # at which pixels are compared
_THUMBNAILS_AGREE = 0.75
_WORTH_A_CLOSER_LOOK = 0.7  # correlation at up to 32 pixels a side
_TINY = 1e-6
_BAND = (0.7, 2.0)  # standard deviations in pixels; detail is the difference of the images blurred so


class Twin(NamedTuple):
    """Two images that show the same picture.

    Attributes:
        first: index of an image.
        second: index of the other image, greater than `first`.
        kind: "equal": all pixels are equal; "near": one is a changed copy; "mirrored": of the mirror image.
        correlation: of their detail, at most 1; it is 1 for equal pixels.
    """

    first: int
    second: int
    kind: Kind
    correlation: float


class Confirmed(NamedTuple):
    """What `confirm` finds about P pairs.

    Attributes:
        correlation: (P,) float32 in [-1, 1], of the aligned images' detail.
        twins: (P,) bool.
    """

    correlation: NDArray[np.float32]
    twins: NDArray[np.bool_]


def pixel_sha(pixels: Pixels) -> str:
    """The sha256 of the decoded pixels' shape and bytes. Equal pixels in different files have equal ones."""
    return content_sha256(pixels)


# The thumbnail


def thumbnail(pixels: Pixels) -> Pixels:
    """Reduce an image to the mean green of 16x16 cells. Of a large image, it reads about 112x112 pixels.

    Args:
        pixels: (H, W, 3) uint8.

    Returns:
        (16, 16) uint8. It is all 0 if the image has a side below `SMALLEST` pixels.
    """
    height, width, _ = pixels.shape
    if min(height, width) < SMALLEST:
        return np.zeros((_SIDE, _SIDE), np.uint8)
    down, right = max(1, height // _SAMPLES), max(1, width // _SAMPLES)
    green = pixels[down // 2 :: down, right // 2 :: right, 1].astype(np.float32)
    cells = _areas(green.shape[0]) @ green @ _areas(green.shape[1]).T + 0.5
    return np.asarray(cells, np.uint8)


@cache
def _areas(n: int) -> NDArray[np.float32]:
    """(16, n): row i averages the part i/16 to (i + 1)/16 of n pixels in a row."""
    edges = np.arange(_SIDE + 1) * n / _SIDE
    pixel = np.arange(n)
    covered = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    return np.asarray(np.maximum(covered, 0) * _SIDE / n, np.float32)


# The hash


def difference_hash(thumbnails: Pixels, *, crops: bool = False) -> NDArray[np.uint64]:
    """Hash thumbnails. Similar images have hashes that differ in few bits.

    Each bit is the sign of a random weighting of the low frequencies. They are weighted by frequency, as
    differences of neighbours are, because an image's coarsest shades say least about it. The first 128 bits
    are even under mirroring and the last 128 odd: a mirrored image's hash has the last two words inverted.

    Args:
        thumbnails: (N, 16, 16) uint8.
        crops: whether to also hash the images without their first or last 5 %, in each direction.

    Returns:
        (1, N, 4) uint64, or (9, N, 4) with crops. The first is the hash of the whole image.
    """
    windows = [(0.0, 1.0), (_CUT, 1.0), (0.0, 1 - _CUT)] if crops else [(0.0, 1.0)]
    flat = thumbnails.reshape(len(thumbnails), _SIDE**2)
    found = np.empty((len(windows) ** 2, len(flat), 4), np.uint64)
    for start in range(0, len(flat), 1 << 14):
        part = flat[start : start + (1 << 14)].astype(np.float32)
        for i, (rows, columns) in enumerate(product(windows, repeat=2)):
            bits = part @ _frequencies(rows, columns) @ _weightings() > 0
            found[i, start : start + len(part)] = np.packbits(bits, axis=1).view(np.uint64)
    return found


@cache
def _frequencies(rows: tuple[float, float], columns: tuple[float, float]) -> NDArray[np.float32]:
    """(256, 49): a thumbnail's window -> its low frequencies times their frequency."""
    k = np.arange(_FREQUENCIES)
    both = np.einsum("ki,lj->ijkl", _cosines(rows), _cosines(columns)) * np.hypot(k[:, None], k)
    return np.asarray(both.reshape(_SIDE**2, -1), np.float32)


def _cosines(window: tuple[float, float]) -> NDArray[np.float64]:
    """(7, 16): the cosine transform of a window of 16 values, which are interpolated linearly."""
    place = (np.arange(240) + 0.5) / 240
    where = (window[0] + (window[1] - window[0]) * place) * _SIDE - 0.5
    weights = np.maximum(0, 1 - np.abs(np.clip(where, 0, _SIDE - 1)[:, None] - np.arange(_SIDE)))
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
"""Positions of queries and of other images, and how many bits differ."""


def propose(thumbnails: Pixels, *, mirrored: bool = False) -> NDArray[np.int64]:
    """Find pairs whose hashes differ in at most `RADIUS` bits, with a crop of one image or without.

    Up to 2,048 images, all pairs are compared. Beyond, only those are that have 3 given bytes of the hash in
    common. This is tried with 32 choices of bytes, which together find nearly all pairs of photographs. Time
    and memory grow about linearly with N, also if all images are alike: an image is compared with a bounded
    number of neighbours, and keeps at most `NEAREST` pairs.

    Args:
        thumbnails: (N, 16, 16) uint8. Flat ones take no part.
        mirrored: whether to compare images with mirror images instead.

    Returns:
        (P, 2) int64, first < second, in ascending order.
    """
    some = np.flatnonzero(np.ptp(thumbnails, axis=(1, 2)) > _FLAT)
    hashes = difference_hash(thumbnails[some], crops=True)
    whole = hashes[0].copy()
    if mirrored:
        hashes[..., 2:] = ~hashes[..., 2:]
    nearest = _Nearest(len(some))
    found = _every_pair(whole, hashes) if len(some) <= _EXACT else _same_keys(whole, hashes, nearest)
    for query, other, distance in found:
        near = (distance <= RADIUS) & (query != other)
        nearest.add(query[near], other[near], distance[near])
    return some[nearest.pairs()]


class _Nearest:
    """The nearest pairs of each of n images."""

    def __init__(self, n: int) -> None:
        self._n = n
        self._code = np.empty(0, np.int64)  # first * n + second, ascending
        self._distance = np.empty(0, np.uint16)
        self.full = np.zeros(n, np.bool_)
        """Images that have `NEAREST` very near pairs, and need no more."""

    def add(self, one: NDArray[np.int64], other: NDArray[np.int64], distance: NDArray[np.uint16]) -> None:
        """Add pairs in any order. Then keep those that are among the nearest of either image."""
        if not len(one):
            return
        code = np.concatenate([self._code, np.minimum(one, other) * self._n + np.maximum(one, other)])
        distance = np.concatenate([self._distance, distance])
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
            ends = np.concatenate([code // self._n, code % self._n])[close[: 2 * len(code)]]
            self.full = np.bincount(ends, minlength=self._n) >= NEAREST
        self._code, self._distance = code, distance

    def pairs(self) -> NDArray[np.int64]:
        """(P, 2), first < second, ascending."""
        return np.stack([self._code // self._n, self._code % self._n], axis=1)


def _every_pair(whole: NDArray[np.uint64], queries: NDArray[np.uint64]) -> Iterator[_Compared]:
    """Compare all of (9, N, 4) queries with all images."""
    signs = _signs(whole)
    for query in queries:
        for start in range(0, len(whole), 256):
            distance = (_BYTES * 8 - _signs(query[start : start + 256]) @ signs.T) / 2
            one, other = np.nonzero(distance <= RADIUS)
            yield one + start, other, distance[one, other].astype(np.uint16)


def _signs(hashes: NDArray[np.uint64]) -> NDArray[np.float32]:
    """(N, 4) hashes -> (N, 256), 1 or -1."""
    return np.unpackbits(hashes.view(np.uint8), axis=1).astype(np.float32) * 2 - 1


def _same_keys(
    whole: NDArray[np.uint64], queries: NDArray[np.uint64], nearest: _Nearest
) -> Iterator[_Compared]:
    """Compare (9, N, 4) queries with the images whose key is equal in one of the tables.

    A key is 3 bytes of the hash. A table sorts the images by their key and 5 more bytes. A query finds its
    place, and goes at most `_STEPS` images up and down from there.
    """
    n = len(whole)
    for table in range(_TABLES):
        columns = draws.permutation(draws.key(0, "table", table), _BYTES)[:8]
        keys = _keys(whole, columns)
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        for query in queries:
            asked = np.flatnonzero(~nearest.full)
            wanted = _keys(query[asked], columns)
            place = np.searchsorted(keys, wanted)
            for start, step in ((0, 1), (-1, -1)):
                alive, at = np.arange(len(asked)), place + start
                met = []
                for _ in range(_STEPS):
                    inside = (at >= 0) & (at < n)
                    alive, at = alive[inside], at[inside]
                    equal = (keys[at] ^ wanted[alive]) >> np.uint64(40) == 0
                    alive, at = alive[equal], at[equal]
                    if not len(alive):
                        break
                    met.append((asked[alive], order[at]))
                    at = at + step
                if met:
                    one, other = (np.concatenate(ends) for ends in zip(*met, strict=True))
                    different = np.bitwise_count(query[one] ^ whole[other])
                    yield one, other, different.sum(axis=1, dtype=np.uint16)


def _keys(hashes: NDArray[np.uint64], columns: NDArray[np.int64]) -> NDArray[np.uint64]:
    """(N, 4) hashes -> (N,) uint64 of 8 of their bytes, the first one highest."""
    chosen = hashes.view(np.uint8)[:, columns]
    return np.ascontiguousarray(chosen).view(">u8")[:, 0].astype(np.uint64)


# Alignment


class _Places(NamedTuple):
    """Where the second image of P pairs lies in the first: y = 0.5 + scale * (v - 0.5) + shift, so for x.

    Coordinates run from 0 to 1 over each image. All are (P, 2) float32, for rows and columns.
    """

    scale: NDArray[np.float32]
    shift: NDArray[np.float32]


def _align(first: NDArray[np.float32], second: NDArray[np.float32]) -> tuple[_Places, NDArray[np.float32]]:
    """Find where two images agree best: the best of 25 crops, then Gauss-Newton steps from there.

    The steps maximise the correlation (Evangelidis and Psarakis 2008) over a shift and a scale per direction.

    Args:
        first: (P, S, S) float32 grey.
        second: the same.

    Returns:
        The places, and (P,) float32, the correlation there.
    """
    count = len(first)
    best = np.full(count, -2, np.float32)
    places = _Places(np.ones((count, 2), np.float32), np.zeros((count, 2), np.float32))
    starts = [(1, 0), (1 - _CUT, _CUT / 2), (1 - _CUT, -_CUT / 2)]
    starts += [(1 / scale, -shift / scale) for scale, shift in starts[1:]]
    for rows, columns in product(starts, repeat=2):
        tried = _Places(
            np.full((count, 2), (rows[0], columns[0]), np.float32),
            np.full((count, 2), (rows[1], columns[1]), np.float32),
        )
        _keep_better(places, best, tried, _overlap(first, second, tried).correlation())
    return _refine(first, second, places, best, 6)


def _keep_better(
    places: _Places, best: NDArray[np.float32], tried: _Places, correlation: NDArray[np.float32]
) -> None:
    """Replace the places, in place, where others give a higher correlation."""
    better = correlation > best
    best[better] = correlation[better]
    places.scale[better] = tried.scale[better]
    places.shift[better] = tried.shift[better]


def _refine(
    first: NDArray[np.float32],
    second: NDArray[np.float32],
    places: _Places,
    best: NDArray[np.float32],
    steps: int,
) -> tuple[_Places, NDArray[np.float32]]:
    """Improve `places`, whose correlation is `best`, by Gauss-Newton steps."""
    count, side, _ = first.shape
    slopes = np.gradient(first, 1 / side, axis=(1, 2))
    centred = (np.arange(side, dtype=np.float32) + 0.5) / side - 0.5
    tried = places
    for _ in range(steps):
        met = _overlap(first, second, tried)
        down, right = (met.rows @ slope @ met.columns for slope in slopes)
        change = np.stack([down * centred[:, None], right * centred, down, right], axis=1)
        change *= met.inside[:, None]
        change -= change.mean(axis=(2, 3), keepdims=True)  # as brightness is free
        change = change.reshape(count, 4, -1)
        gain = (met.one * met.other).sum((1, 2)) / ((met.one**2).sum((1, 2)) + _TINY)  # as contrast is free
        change *= gain[:, None, None]
        left = (met.other - gain[:, None, None] * met.one).reshape(count, -1, 1)
        curvature = change @ change.transpose(0, 2, 1)
        damping = 1e-3 * np.trace(curvature, axis1=1, axis2=2) + _TINY
        curvature += damping[:, None, None] * np.eye(4, dtype=np.float32)
        step = np.linalg.solve(curvature, change @ left)[..., 0].clip(-_CUT, _CUT)
        tried = _Places(
            (tried.scale + step[:, :2]).clip(0.8, 1.25), (tried.shift + step[:, 2:]).clip(-0.12, 0.12)
        )
        _keep_better(places, best, tried, _overlap(first, second, tried).correlation())
    return places, best


class _Overlap(NamedTuple):
    """Both images of P pairs where they overlap, minus their mean there, and 0 elsewhere.

    The first is resampled to the pixels of the second: rows @ first @ columns.
    """

    one: NDArray[np.float32]
    other: NDArray[np.float32]
    inside: NDArray[np.bool_]
    rows: NDArray[np.float32]
    columns: NDArray[np.float32]

    def correlation(self) -> NDArray[np.float32]:
        """(P,) float32 in [-1, 1]."""
        product = (self.one * self.other).sum((1, 2))
        energy = (self.one**2).sum((1, 2)) * (self.other**2).sum((1, 2))
        return np.asarray(product / np.sqrt(energy + _TINY), np.float32)


def _overlap(first: NDArray[np.float32], second: NDArray[np.float32], places: _Places) -> _Overlap:
    side = first.shape[1]
    centred = (np.arange(side, dtype=np.float32) + 0.5) / side - 0.5
    where = 0.5 + places.scale[..., None] * centred + places.shift[..., None]  # (P, 2, S)
    within = (where >= 0) & (where <= 1)
    pixel = (where * side - 0.5).clip(0, side - 1)
    weights = np.maximum(0, 1 - np.abs(pixel[..., None] - np.arange(side, dtype=np.float32)))
    rows, columns = weights[:, 0], weights[:, 1].transpose(0, 2, 1)
    inside = within[:, 0, :, None] & within[:, 1, None, :]
    area = inside.sum((1, 2), keepdims=True, dtype=np.float32) + _TINY
    one, other = (
        (image - (image * inside).sum((1, 2), keepdims=True) / area) * inside
        for image in (rows @ first @ columns, second)
    )
    return _Overlap(one, other, inside, rows, columns)


# Confirmation


def confirm(first: Sequence[Pixels], second: Sequence[Pixels]) -> Confirmed:
    """Align the images of each pair and correlate their detail.

    Detail is the difference of two blurred copies of the grey image, which has 16 to 64 pixels a side, as the
    smaller image allows.
    Twins must reach `CORRELATION`, or `SPARSE_CORRELATION` if few pixels have detail, and every part of them
    must agree (`AGREEMENT`).

    Args:
        first: P images, (H, W, 3) uint8 with sides of at least `SMALLEST`.
        second: the other images. The sizes may differ.

    Returns:
        The correlations, and which pairs are twins.
    """
    ones, others = [_grey(pixels) for pixels in first], [_grey(pixels) for pixels in second]
    places, _ = _align(_square(ones, _SIDE), _square(others, _SIDE))
    return _confirm(ones, others, places)


def _confirm(ones: list[Image.Image], others: list[Image.Image], places: _Places) -> Confirmed:
    """Confirm pairs of grey images, given roughly where the second lies in the first."""
    correlation, twins = np.zeros(len(ones), np.float32), np.zeros(len(ones), np.bool_)
    sides = [min(*one.size, *other.size) for one, other in zip(ones, others, strict=True)]
    sizes = np.array([next(size for size in _SIZES if size <= side) for side in sides], np.int64)
    for size in np.unique(sizes).tolist():
        chosen = np.flatnonzero(sizes == size)
        for side, steps in ((min(size, 32), 4), (size, 3)):
            pairs = [(ones[i], others[i]) for i in chosen.tolist()]
            a, b = _square([one for one, _ in pairs], side), _square([other for _, other in pairs], side)
            at = _Places(places.scale[chosen], places.shift[chosen])
            at, _ = _refine(a, b, at, _overlap(a, b, at).correlation(), steps)
            places.scale[chosen], places.shift[chosen] = at
            boxes = [_common(scale, shift) for scale, shift in zip(at.scale, at.shift, strict=True)]
            a = _square([one for one, _ in pairs], side, [box for box, _ in boxes])
            b = _square([other for _, other in pairs], side, [box for _, box in boxes])
            correlation[chosen], twins[chosen] = _compare(a, b)
            chosen = chosen[correlation[chosen] >= _WORTH_A_CLOSER_LOOK]
            if not len(chosen):
                break
    return Confirmed(correlation, twins)


def _grey(pixels: Pixels) -> Image.Image:
    """The grey image, resized so that no side is longer than `_KEPT` pixels."""
    image = Image.fromarray(pixels).convert("L")
    size = min(image.width, _KEPT), min(image.height, _KEPT)
    return (image if size == image.size else image.resize(size, Image.Resampling.BICUBIC)).convert("F")


_Box = tuple[float, float, float, float]


def _square(images: list[Image.Image], side: int, boxes: list[_Box] | None = None) -> NDArray[np.float32]:
    """Resize images, or boxes (left, top, right, bottom in 0..1) of them, to (P, side, side) float32."""
    found = np.empty((len(images), side, side), np.float32)
    for i, image in enumerate(images):
        left, top, right, bottom = boxes[i] if boxes else (0.0, 0.0, 1.0, 1.0)
        box = (left * image.width, top * image.height, right * image.width, bottom * image.height)
        found[i] = np.asarray(image.resize((side, side), Image.Resampling.BICUBIC, box))
    return found


def _common(scale: NDArray[np.float32], shift: NDArray[np.float32]) -> tuple[_Box, _Box]:
    """The overlap of both images, as a box of the first and a box of the second."""
    spans = []
    for s, t in zip(scale.tolist(), shift.tolist(), strict=True):
        low, high = max(0.0, 0.5 - (0.5 + t) / s), min(1.0, 0.5 + (0.5 - t) / s)
        ends = [min(1.0, max(0.0, 0.5 + s * (end - 0.5) + t)) for end in (low, high)]
        spans.append((*ends, low, high))
    (top, bottom, low, high), (left, right, near, far) = spans
    return (left, top, right, bottom), (near, low, far, high)


def _compare(
    one: NDArray[np.float32], other: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Correlate the detail of aligned (P, S, S) images -> (correlation, whether they are twins)."""
    a, b = _detail(one), _detail(other)
    correlation = (a * b).mean((1, 2))
    part = max(1.5, one.shape[1] / 12)
    energy = _blurred((a**2 + b**2) / 2, part)
    difference = _blurred((a - b) ** 2 / 2, part)
    agreement = 1 - (difference / (energy + 0.5)).max(axis=(1, 2))
    fine = _blurred(a**2, 1.5)
    carrying = fine.sum((1, 2)) ** 2 / ((fine**2).sum((1, 2)) + _TINY)
    needed = np.where(carrying < SPARSE, SPARSE_CORRELATION, CORRELATION)
    return correlation, (correlation >= needed) & (agreement >= AGREEMENT)


def _detail(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Band-pass images to mean 0 and standard deviation 1. The finest scale is left out: JPEG changes it."""
    detail = _blurred(images, _BAND[0]) - _blurred(images, _BAND[1])
    detail -= detail.mean((1, 2), keepdims=True)
    return np.asarray(detail / (detail.std((1, 2), keepdims=True) + 1e-3), np.float32)


def _blurred(images: NDArray[np.floating], deviation: float) -> NDArray[np.float32]:
    return np.asarray(gaussian_filter(images, (0, deviation, deviation)), np.float32)


# All together


def twins(
    thumbnails: Pixels,
    shas: Sequence[str],
    read: Callable[[NDArray[np.int64]], Iterable[Pixels]],
    *,
    mirrored: bool = True,
) -> list[Twin]:
    """Find all pairs of twins among N images.

    An image with equal pixels elsewhere is paired only with the first such image, and only this one is
    compared further. `groups` therefore says best which images belong together.

    Args:
        thumbnails: (N, 16, 16) uint8 from `thumbnail`.
        shas: N results of `pixel_sha`.
        read: decodes the images with these indices (ascending, no repeats), in this order. It may yield them
            one by one: of each image at most 128x128 pixels are kept.
        mirrored: whether to also look for mirrored copies. It doubles the time of the proposals.

    Returns:
        The pairs, ascending by first and second. No pair occurs twice.
    """
    first_with: dict[str, int] = {}
    owner = np.array([first_with.setdefault(sha, i) for i, sha in enumerate(shas)], np.int64)
    found = [
        Twin(int(owner[i]), int(i), "equal", 1.0) for i in np.flatnonzero(owner != np.arange(len(owner)))
    ]
    alone = np.flatnonzero(owner == np.arange(len(owner)))
    near = dict(_confirmed(thumbnails, alone[propose(thumbnails[alone])], read, "near"))
    if mirrored:
        pairs = alone[propose(thumbnails[alone], mirrored=True)]
        for pair, twin in _confirmed(thumbnails, pairs, read, "mirrored"):
            near[pair] = max(twin, near.get(pair, twin), key=lambda one: one.correlation)
    return sorted([*found, *near.values()])


def _confirmed(
    thumbnails: Pixels,
    pairs: NDArray[np.int64],
    read: Callable[[NDArray[np.int64]], Iterable[Pixels]],
    kind: Literal["near", "mirrored"],
) -> Iterator[tuple[tuple[int, int], Twin]]:
    """The pairs that are twins, each with its indices."""
    turned = thumbnails[..., ::-1] if kind == "mirrored" else thumbnails
    for start in range(0, len(pairs), _BATCH):
        batch = pairs[start : start + _BATCH]
        places, likeness = _align(
            thumbnails[batch[:, 0]].astype(np.float32), turned[batch[:, 1]].astype(np.float32)
        )
        likely = likeness >= _THUMBNAILS_AGREE
        batch, places = batch[likely], _Places(places.scale[likely], places.shift[likely])
        if not len(batch):
            continue
        index = np.unique(batch)
        grey = dict(zip(index.tolist(), map(_grey, read(index)), strict=True))
        ones, others = ([grey[i] for i in column.tolist()] for column in batch.T)
        if kind == "mirrored":
            others = [image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for image in others]
        result = _confirm(ones, others, places)
        for (i, j), correlation, yes in zip(batch.tolist(), result.correlation, result.twins, strict=True):
            if yes:
                yield (i, j), Twin(i, j, kind, float(correlation))


def groups(n: int, pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Group images that are linked by pairs, directly or through others.

    Args:
        n: number of images.
        pairs: (P, 2) int64 indices.

    Returns:
        (n,) int64, the smallest index of each image's group; its own index if it is in no pair.
    """
    ones = np.ones(len(pairs), np.bool_)
    graph = coo_array((ones, (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    _, label = connected_components(graph, directed=False)
    _, first = np.unique(label, return_index=True)
    return np.asarray(first[label], np.int64)
