"""What is kept of an image's pixels to recognise its picture: their hash, and a thumbnail.

`data.twins` compares the thumbnails. Every process that reads images imports this file, and importing scipy
takes longer than decoding a thousand images, so it is not used here.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from data.decode import content_sha256
from data.sources import Pixels

SIDE = 16
"""Side of a thumbnail, in cells."""

SMALLEST = 16
"""Images with a side of fewer pixels are twins only if their pixels are equal."""

_SAMPLES = 112  # about this many rows and columns of a large image make its thumbnail


def pixel_sha(pixels: Pixels) -> str:
    """The sha256 of the decoded pixels' shape and bytes. Equal pixels have equal hashes."""
    return content_sha256(pixels)


def thumbnail(pixels: Pixels) -> Pixels:
    """Reduce an image to the mean green of 16x16 cells. Of a large image, it reads about 112x112 pixels.

    Args:
        pixels: (H, W, 3) uint8.

    Returns:
        (16, 16) uint8. It is all 0 if the image has a side below `SMALLEST` pixels.
    """
    height, width, _ = pixels.shape
    if min(height, width) < SMALLEST:
        return np.zeros((SIDE, SIDE), np.uint8)
    down, right = max(1, height // _SAMPLES), max(1, width // _SAMPLES)
    green = pixels[down // 2 :: down, right // 2 :: right, 1].astype(np.float32)
    cells = _areas(green.shape[0]) @ green @ _areas(green.shape[1]).T + 0.5
    return np.asarray(cells, np.uint8)


@cache
def _areas(n: int) -> NDArray[np.float32]:
    """(16, n): row i averages the part i/16 to (i + 1)/16 of n pixels in a row."""
    edges = np.arange(SIDE + 1) * n / SIDE
    pixel = np.arange(n)
    covered = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    return np.asarray(np.maximum(covered, 0) * SIDE / n, np.float32)
