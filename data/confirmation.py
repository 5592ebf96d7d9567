"""Confirm that pairs of images show the same picture: align their pixels and correlate their detail."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from data.alignment import TINY, Places, align, refine
from data.sources import Pixels
from data.thumbnails import SIDE

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

_KEPT = 128  # longest side, in pixels, of what is kept of a decoded image
_SIZES = (64, 48, 32, 24, 16)  # at which pixels are compared
_WORTH_A_CLOSER_LOOK = 0.85  # correlation at up to 32 pixels a side; 99 % of planted copies reach 0.94
_BAND = (0.7, 2.0)  # standard deviations in pixels; detail is the difference of the images blurred so


class Confirmed(NamedTuple):
    """What `confirm` finds about P pairs.

    Attributes:
        correlation: (P,) float32 in [-1, 1], of the aligned images' detail.
        twins: (P,) bool.
    """

    correlation: NDArray[np.float32]
    twins: NDArray[np.bool_]


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
    ones, others = ([grey(pixels) for pixels in images] for images in (first, second))
    places, _ = align(*(_square([one.convert("F") for one in images], SIDE) for images in (ones, others)))
    return confirm_at(places, ones, others)


def confirm_at(places: Places, first: Sequence[Image.Image], second: Sequence[Image.Image]) -> Confirmed:
    """Like `confirm`, for P pairs of `grey` images and roughly where the second lies in the first."""
    ones, others = ([image.convert("F") for image in images] for images in (first, second))
    places = Places(places.scale.copy(), places.shift.copy())
    correlation, twins = np.zeros(len(ones), np.float32), np.zeros(len(ones), np.bool_)
    sides = [min(*one.size, *other.size) for one, other in zip(ones, others, strict=True)]
    sizes = np.array([next(size for size in _SIZES if size <= side) for side in sides], np.int64)
    for size in np.unique(sizes).tolist():
        chosen = np.flatnonzero(sizes == size)
        for side, steps in ((min(size, 32), 4), (size, 3)):
            one, other = ([images[i] for i in chosen.tolist()] for images in (ones, others))
            at = Places(places.scale[chosen], places.shift[chosen])
            at, _ = refine(_square(one, side), _square(other, side), at, steps)
            places.scale[chosen], places.shift[chosen] = at
            boxes = [_common(scale, shift) for scale, shift in zip(at.scale, at.shift, strict=True)]
            correlation[chosen], twins[chosen] = _compare(
                _square(one, side, [box for box, _ in boxes]), _square(other, side, [box for _, box in boxes])
            )
            chosen = chosen[correlation[chosen] >= _WORTH_A_CLOSER_LOOK]
            if not len(chosen):
                break
    return Confirmed(correlation, twins)


def grey(pixels: Pixels) -> Image.Image:
    """The grey image of 8 bits, resized so that no side is longer than 128 pixels."""
    image = Image.fromarray(pixels).convert("L")
    size = min(image.width, _KEPT), min(image.height, _KEPT)
    return image if size == image.size else image.resize(size, Image.Resampling.BICUBIC)


_Box = tuple[float, float, float, float]


def _square(images: list[Image.Image], side: int, boxes: list[_Box] | None = None) -> NDArray[np.float32]:
    """Resize images, or boxes (left, top, right, bottom in 0..1) of them, to (P, side, side) float32."""
    found = np.empty((len(images), side, side), np.float32)
    for i, image in enumerate(images):
        width, height = image.size
        if boxes:
            left, top, right, bottom = boxes[i]
            box = (left * width, top * height, right * width, bottom * height)
            image = image.resize((side, side), Image.Resampling.BICUBIC, box)
        elif (width, height) != (side, side):
            image = image.resize((side, side), Image.Resampling.BICUBIC)
        found[i] = np.frombuffer(image.tobytes(), np.float32).reshape(side, side)  # half of asarray's time
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
    carrying = fine.sum((1, 2)) ** 2 / ((fine**2).sum((1, 2)) + TINY)
    needed = np.where(carrying < SPARSE, SPARSE_CORRELATION, CORRELATION)
    return correlation, (correlation >= needed) & (agreement >= AGREEMENT)


def _detail(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Band-pass images to mean 0 and standard deviation 1. The finest scale is left out: JPEG changes it."""
    detail = _blurred(images, _BAND[0]) - _blurred(images, _BAND[1])
    detail -= detail.mean((1, 2), keepdims=True)
    return np.asarray(detail / (detail.std((1, 2), keepdims=True) + 1e-3), np.float32)


def _blurred(images: NDArray[np.floating], deviation: float) -> NDArray[np.float32]:
    return np.asarray(gaussian_filter(images, (0, deviation, deviation)), np.float32)
