"""Contact sheets: which clusters to show, which of their images, and the pictures as small PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from math import sqrt

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data.errors import ArtifactError

COLUMNS = 5
SIDE = 72
"""Side of an image on a sheet, px, at most. Small images are enlarged by a whole factor."""
GAP = 4
LIMIT = 60_000
"""Bytes of one sheet's PNG."""
SMALLEST_SIDE = 8


def colours(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(n, h, w, bands) -> (n, h, w, 3): the first three bands, or the first one as grey."""
    return pixels[..., :3] if pixels.shape[3] >= 3 else pixels[..., [0, 0, 0]]


def choose(
    sizes: NDArray[np.int64],
    purity: NDArray[np.float64] | None,
    count: int = 12,
    labelled: NDArray[np.int64] | None = None,
) -> list[tuple[int, str]]:
    """Choose the clusters to show. No cluster comes twice, and empty ones never.

    With purities, they are the largest, purest, most mixed and smallest clusters, in equal parts. Without,
    they are the largest, those of middle size and the smallest. Only clusters of at least ten labelled images
    count as pure or mixed, if there are any. A cluster without any is neither.

    Args:
        sizes: (k,) number of images in each cluster.
        purity: (k,) share of the majority class in [0, 1], or None without labels.
        count: how many to choose at most.
        labelled: (k,) number of images behind each purity; None: all of the cluster.

    Returns:
        (cluster, reason) of each.
    """
    filled = np.flatnonzero(sizes)
    by_size = filled[np.argsort(-sizes[filled], kind="stable")]
    middle = np.argsort(np.abs(np.arange(by_size.size) - (by_size.size - 1) / 2), kind="stable")
    lists = {"largest": by_size, "of middle size": by_size[middle], "smallest": by_size[::-1]}
    if purity is not None:
        behind = sizes if labelled is None else labelled
        weighty = np.flatnonzero(behind >= 10) if (behind >= 10).any() else np.flatnonzero(behind)
        by_purity = weighty[np.argsort(-purity[weighty], kind="stable")]
        lists = {
            "largest": by_size,
            "purest": by_purity,
            "most mixed": by_purity[::-1],
            "smallest": by_size[::-1],
        }
    taken: dict[int, str] = {}
    # Take one of each list in turn, so that each reason gets its share even if the lists overlap.
    turns = {reason: iter(candidates.tolist()) for reason, candidates in lists.items()}
    while len(taken) < min(count, filled.size):
        for reason, candidates in turns.items():
            fresh = next((cluster for cluster in candidates if cluster not in taken), None)
            if fresh is not None and len(taken) < count:
                taken[fresh] = reason
    reasons = list(lists)
    return sorted(taken.items(), key=lambda item: reasons.index(item[1]))


def nearest(
    cluster: NDArray[np.int32], distance: NDArray[np.float32], wanted: Sequence[int], count: int = 10
) -> dict[int, NDArray[np.int64]]:
    """Find the images nearest to the centroids of some clusters.

    Args:
        cluster: (N,) each image's cluster.
        distance: (N,) each image's distance to its centroid.
        wanted: the clusters.
        count: number of images per cluster, at most.

    Returns:
        Cluster -> rows of its images, nearest first; equally near ones in order of their rows.
    """
    found = {}
    for each in wanted:
        rows = np.flatnonzero(cluster == each)
        found[each] = rows[np.argsort(distance[rows], kind="stable")][:count].astype(np.int64)
    return found


def sheet(
    images: Sequence[NDArray[np.uint8]], *, columns: int = COLUMNS, side: int = SIDE
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Put images side by side, in rows.

    Args:
        images: (h, w, 3) uint8 each, of any sizes.
        columns: images per row.
        side: the largest side of a cell. Small images are enlarged by one whole factor, large ones shrunk.

    Returns:
        (H, W, 3) uint8 pixels and (H, W) bool, which is False in gaps and margins.

    Raises:
        ArtifactError: there are no images, or one is not (h, w, 3) uint8.
    """
    if not images:
        raise ArtifactError("contact sheet: no images. Leave empty clusters out.")
    for i, image in enumerate(images):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
            found = f"{image.dtype} of shape {image.shape}"
            raise ArtifactError(f"contact sheet: image {i} is {found}; give (h, w, 3) uint8, not empty.")
    largest = max(max(image.shape[:2]) for image in images)
    factor = max(1, side // largest)
    cell = min(side, largest * factor)
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    pixels = np.zeros((rows * (cell + GAP) - GAP, columns * (cell + GAP) - GAP, 3), np.uint8)
    drawn = np.zeros(pixels.shape[:2], np.bool_)
    for i, image in enumerate(images):
        if factor > 1:
            small = image.repeat(factor, 0).repeat(factor, 1)
        else:
            thumbnail = Image.fromarray(image)
            thumbnail.thumbnail((cell, cell), Image.Resampling.LANCZOS)
            small = np.asarray(thumbnail)
        h, w = small.shape[:2]
        y = i // columns * (cell + GAP) + (cell - h) // 2
        x = i % columns * (cell + GAP) + (cell - w) // 2
        pixels[y : y + h, x : x + w] = small
        drawn[y : y + h, x : x + w] = True
    return pixels, drawn


def png(
    images: Sequence[NDArray[np.uint8]],
    *,
    columns: int = COLUMNS,
    side: int = SIDE,
    limit: int = LIMIT,
) -> bytes:
    """Draw a sheet as PNG with transparent gaps, of at most `limit` bytes.

    It is lossless if that fits. Otherwise it has 255 colours, and if need be smaller cells, down to 8 px.
    """
    pixels, drawn = sheet(images, columns=columns, side=side)
    lossless = _bytes(Image.fromarray(np.dstack([pixels, np.uint8(255) * drawn])))
    if len(lossless) <= limit:
        return lossless
    while True:
        indexed = Image.fromarray(pixels).quantize(255)
        places = np.array(indexed)
        places[~drawn] = 255
        result = Image.fromarray(places)
        palette = indexed.getpalette() or []
        result.putpalette(palette + [0] * (768 - len(palette)))
        small = _bytes(result, transparency=255)
        if len(small) <= limit or side <= SMALLEST_SIDE:
            return small
        side = _smaller(side, limit / len(small))
        pixels, drawn = sheet(images, columns=columns, side=side)


def _smaller(side: int, ratio: float) -> int:
    """The next side to try if the last picture may keep only `ratio` of its bytes."""
    return max(SMALLEST_SIDE, min(side - 1, int(side * sqrt(ratio))))


def bounded(picture: bytes, limit: int) -> bytes:
    """Bring a PNG below `limit` bytes: as it is if it fits, else with 256 colours, else smaller, too."""
    if len(picture) <= limit:
        return picture
    image = Image.open(BytesIO(picture)).convert("RGB")
    while True:
        small = _bytes(image.quantize(256))
        if len(small) <= limit or max(image.size) <= SMALLEST_SIDE:
            return small
        longest = _smaller(max(image.size), limit / len(small))
        image.thumbnail((longest, longest), Image.Resampling.LANCZOS)


def _bytes(image: Image.Image, **options: int) -> bytes:
    file = BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()
