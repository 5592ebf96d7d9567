"""Near-duplicate images ("twins"): a difference hash proposes pairs, and aligned pixels confirm them.

Each image is decoded once. Two things are kept of it: `pixel_sha`, a hash of all its pixels, and `thumbnail`,
the mean green of 16x16 cells (`data.thumbnails`). `twins` finds the pairs from these. It decodes again only
the images of pairs that the thumbnails can't rule out.

1. Images with equal pixels form a group. Each of them is paired with the first image of its group. Only this
   first image takes part in the next steps.
2. `data.proposals` compares difference hashes. A bit of the hash says which of two weighted parts of the
   image is brighter. To survive a crop, each image is also hashed without its first or last 5 % in each
   direction.
3. `data.alignment` aligns the thumbnails of a proposed pair. Many pairs are ruled out here, without decoding.
   Of the others, each image keeps the eight that agree best.
4. `data.confirmation` aligns the pixels themselves and correlates their detail. The detail tells images apart
   that share only a layout: two cells on a plain background, two letters, two textures under the same light.

A copy is found if it is re-encoded, resized (also to another aspect ratio), shifted or cropped by up to 8 %
of each side, or made brighter or darker. At 10 %, nine in ten are found. Copies that are rotated, drawn on,
or recoloured to another pattern of light and dark are not found.

Two kinds of images are twins only if their pixels are equal: images with a side below
`data.thumbnails.SMALLEST` pixels, and flat images, whose thumbnail has no contrast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from data.alignment import Places, align
from data.confirmation import Confirmed, confirm_at, grey
from data.proposals import propose
from data.sources import Pixels
from data.spread import Threads

Kind = Literal["equal", "near", "mirrored"]

_THUMBNAILS_AGREE = 0.75  # correlation
_LIKELIEST = 8  # number of pairs per image whose pixels are compared, those whose thumbnails agree best
_BATCH = 128  # number of pairs that are aligned at once; their arrays fit into a cache
_ROUND = 8192  # number of pairs whose images are in memory at once, at most 256 MiB


class Twin(NamedTuple):
    """Two images that show the same picture.

    Attributes:
        first: index of an image.
        second: index of the other image, greater than `first`.
        kind: "equal": all pixels are equal. "near": one image is a changed copy of the other. "mirrored": one
            is a changed copy of the other's mirror image.
        correlation: correlation of their detail, at most 1; it is 1 for equal pixels.
    """

    first: int
    second: int
    kind: Kind
    correlation: float


Read = Callable[[NDArray[np.int64]], Iterable[tuple[int, Pixels]]]
"""Decodes the images with given indices, each once. Yields each index and its pixels, in any order."""


def twins(
    thumbnails: Pixels, shas: Sequence[str], read: Read, *, mirrored: bool = True, workers: int = 0
) -> list[Twin]:
    """Find all pairs of twins among N images.

    If several images have equal pixels, each is paired only with the first of them, and only the first is
    compared with other images. So use `groups` to find out which images belong together.

    Args:
        thumbnails: (N, 16, 16) uint8 from `thumbnail`.
        shas: N results of `pixel_sha`.
        read: decodes images. It is called a few times, with ascending indices. It should yield one image at a
            time, because at most 128x128 pixels of each are kept.
        mirrored: whether to look for mirrored copies, too. This doubles the time of the proposals.
        workers: number of threads; 0: no further thread is started.

    Returns:
        The pairs, ascending by first and second. No pair occurs twice.
    """
    first_with: dict[str, int] = {}
    owner = np.array([first_with.setdefault(sha, i) for i, sha in enumerate(shas)], np.int64)
    found = [
        Twin(int(owner[i]), int(i), "equal", 1.0) for i in np.flatnonzero(owner != np.arange(len(owner)))
    ]
    alone = np.flatnonzero(owner == np.arange(len(owner)))
    best: dict[tuple[int, int], Twin] = {}
    with Threads(workers) as threads:
        proposals = propose(thumbnails[alone], mirrored=mirrored, threads=threads)
        pairs = np.concatenate([alone[pairs] for pairs in proposals])
        flipped = np.repeat([False, True], [len(pairs) for pairs in proposals])
        for twin in _confirmed(_likely(thumbnails, pairs, flipped, threads), read, threads):
            other = best.setdefault(twin[:2], twin)
            best[twin[:2]] = max(twin, other, key=lambda one: one.correlation)
    return sorted([*found, *best.values()])


class _Pairs(NamedTuple):
    """P pairs of images.

    Attributes:
        images: (P, 2) int64, their indices.
        flipped: (P,) bool, whether the second image is mirrored first.
        places: where the second image, mirrored if `flipped`, lies in the first.
    """

    images: NDArray[np.int64]
    flipped: NDArray[np.bool_]
    places: Places

    def at(self, chosen: NDArray[np.int64] | NDArray[np.bool_] | slice) -> _Pairs:
        """Some of the pairs."""
        places = Places(self.places.scale[chosen], self.places.shift[chosen])
        return _Pairs(self.images[chosen], self.flipped[chosen], places)


def _likely(
    thumbnails: Pixels, index: NDArray[np.int64], flipped: NDArray[np.bool_], threads: Threads
) -> _Pairs:
    """The pairs whose thumbnails agree, ascending by their indices.

    Comparing pixels takes five times as long as this. Among letters or line drawings, nearly all proposed
    pairs agree. So an image keeps only its `_LIKELIEST` pairs. A pair stays if either image keeps it.
    """

    def aligned(start: int) -> tuple[_Pairs, NDArray[np.float32]]:
        pairs, mirrored = index[start : start + _BATCH], flipped[start : start + _BATCH]
        one, other = (thumbnails[pairs[:, i]].astype(np.float32) for i in (0, 1))
        other[mirrored] = other[mirrored][..., ::-1]
        places, likeness = align(one, other)
        agree = likeness >= _THUMBNAILS_AGREE
        return _Pairs(pairs, mirrored, places).at(agree), likeness[agree]

    none = _Pairs(index[:0], flipped[:0], Places(*np.empty((2, 0, 2), np.float32)))
    both = [(none, np.empty(0, np.float32)), *threads.map(aligned, range(0, len(index), _BATCH))]
    parts = [pairs for pairs, _ in both]
    found = _Pairs(
        np.concatenate([part.images for part in parts]),
        np.concatenate([part.flipped for part in parts]),
        Places(
            np.concatenate([part.places.scale for part in parts]),
            np.concatenate([part.places.shift for part in parts]),
        ),
    )
    likeness = np.concatenate([each for _, each in both])
    kept = _best(found.images, likeness, _LIKELIEST)
    found = found.at(kept)
    return found.at(np.lexsort((found.flipped, *found.images.T[::-1])))


def _best(images: NDArray[np.int64], likeness: NDArray[np.float32], count: int) -> NDArray[np.bool_]:
    """Which of P pairs are among the `count` likeliest of either image.

    Args:
        images: (P, 2), the images of each pair.
        likeness: (P,). Of pairs that are alike, the first ones count.
        count: number of pairs that an image keeps.

    Returns:
        (P,) bool.
    """
    ends = images.T.ravel()
    order = np.lexsort((-np.tile(likeness, 2), ends))
    begins = np.flatnonzero(np.diff(ends[order], prepend=-1))
    rank = np.empty(len(ends), np.int64)
    rank[order] = np.arange(len(ends)) - np.repeat(begins, np.diff(begins, append=len(ends)))
    return np.asarray((rank < count).reshape(2, -1).any(axis=0), np.bool_)


def _confirmed(pairs: _Pairs, read: Read, threads: Threads) -> Iterator[Twin]:
    """The pairs that are twins."""
    for start in range(0, len(pairs.images), _ROUND):
        part = pairs.at(slice(start, start + _ROUND))
        images = {i: grey(pixels) for i, pixels in read(np.unique(part.images))}

        def confirm(begin: int, part: _Pairs = part, images: dict[int, Image.Image] = images) -> Confirmed:
            batch = part.at(slice(begin, begin + _BATCH))
            others = [
                images[i].transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flipped else images[i]
                for i, flipped in zip(batch.images[:, 1].tolist(), batch.flipped, strict=True)
            ]
            return confirm_at(batch.places, [images[i] for i in batch.images[:, 0].tolist()], others)

        results = list(threads.map(confirm, range(0, len(part.images), _BATCH)))
        correlation = np.concatenate([result.correlation for result in results])
        for at in np.flatnonzero(np.concatenate([result.twins for result in results])).tolist():
            first, second = part.images[at].tolist()
            yield Twin(first, second, "mirrored" if part.flipped[at] else "near", float(correlation[at]))


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
