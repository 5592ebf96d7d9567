"""The sprite sheet of the map: small pictures of all its images in one WebP file of bounded size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from math import ceil, sqrt

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LIMIT = 1_500_000
"""Bytes of the file, at most."""
SIDE = 56
"""Side of a picture, px, at most."""
PIXELS = 8_000_000
"""Pixels of all pictures together, at most: with more images, each has a smaller picture."""
SMALLEST_SIDE = 8
LOSSLESS = 1_000_000
"""Up to this number of pixels, a lossless file is tried first. It suits drawings and digits."""
QUALITIES = (80, 60, 40)
BLOCK = 256
"""Images that are read at once."""


@dataclass(frozen=True)
class Sprite:
    """The sheet. Picture i is in row i // columns and column i % columns.

    Attributes:
        webp: the file.
        side: side of a picture, px.
        columns: pictures in a row.
    """

    webp: bytes
    side: int
    columns: int


def sprite(read: Callable[[slice], NDArray[np.uint8]], n: int, stored: int) -> Sprite:
    """Draw the sheet, as large and as sharp as LIMIT allows.

    Args:
        read: a range of images -> (B, stored, stored, 3) uint8. Each image is read once.
        n: number of images, at least 1.
        stored: side of the images, px.
    """
    side = max(min(SMALLEST_SIDE, stored), min(stored, SIDE, int(sqrt(PIXELS / n))))
    columns = ceil(sqrt(n))
    rows = -(-n // columns)
    sheet = np.zeros((rows * side, columns * side, 3), np.uint8)
    for start in range(0, n, BLOCK):
        part = slice(start, min(start + BLOCK, n))
        for i, pixels in enumerate(read(part), start):
            y, x = i // columns * side, i % columns * side
            sheet[y : y + side, x : x + side] = _shrunk(pixels, side)
    if sheet.shape[0] * sheet.shape[1] <= LOSSLESS:
        lossless = _webp(sheet, lossless=True, quality=50)
        if len(lossless) <= LIMIT:
            return Sprite(lossless, side, columns)
    while True:
        for quality in QUALITIES:
            file = _webp(sheet, quality=quality)
            if len(file) <= LIMIT:
                return Sprite(file, side, columns)
        smaller = max(SMALLEST_SIDE, int(side * 0.75))
        if smaller >= side:
            return Sprite(file, side, columns)
        sheet = _cells(sheet, side, smaller)
        side = smaller


def _shrunk(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    if pixels.shape[0] == side:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.LANCZOS))


def _cells(sheet: NDArray[np.uint8], side: int, smaller: int) -> NDArray[np.uint8]:
    """Make all pictures of a sheet smaller, each for itself."""
    rows, columns = sheet.shape[0] // side, sheet.shape[1] // side
    found = np.zeros((rows * smaller, columns * smaller, 3), np.uint8)
    for row in range(rows):
        for column in range(columns):
            cell = sheet[row * side : (row + 1) * side, column * side : (column + 1) * side]
            y, x = row * smaller, column * smaller
            found[y : y + smaller, x : x + smaller] = _shrunk(cell, smaller)
    return found


def _webp(sheet: NDArray[np.uint8], **options: int) -> bytes:
    file = BytesIO()
    Image.fromarray(sheet).save(file, "WEBP", method=4, **options)
    return file.getvalue()
