"""Suggest the kind of pictures of a set of images, from its pixels alone.

Each test asks for a property of a kind, not of a data set:

- Strokes: most of an image is black or white background, and the rest is narrow. Wide strokes are symbols,
  and thin ones are drawings.
- Colours: images without any are grey. If most coloured pixels absorb mainly green light, they are stained,
  like tissue under a microscope.
- Directions: can a linear classifier tell an image from its turned copy, by where it is dark, coloured or
  rich in edges? If not, no direction is special, as in images from a satellite or a microscope. If, besides,
  the centre differs from the border, the images show single objects, as those from a microscope do.
- Sides: can the classifier tell an image from its mirror image? If so, left and right have a meaning (Lin et
  al. 2020, "Visual chirality").

The classifier can't memorise single images. It is linear, it has few weights, and it is tested on images
that it was not fitted to.

If the tests are not clear, the suggestion is the kind whose views destroy least. A view that changes too
little costs some accuracy. A view that destroys what tells the classes apart costs most of it. So images are
turned only if their directions clearly have no meaning, or if they are stained. They are not mirrored if two
of three can be told from their mirror image. And if directions have no meaning but the images show single
objects, colours are changed only slightly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SAMPLE = 500
"""Maximum number of images that are looked at."""
FEWEST = 20
"""With fewer images, directions and sides are not tested, and no suggestion is sure."""

_Floats = NDArray[np.float32]
_SIDE = 64  # px; larger images are shrunk by a whole factor
_FIELDS = 4  # number of fields along each side of an image
_DIRECTIONS = 8  # number of bins for a gradient's direction, over half a turn
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_FOLDS = 5
_CHROMA = 40  # the channels of a strongly coloured pixel differ by more than this, of 255
_SPARSE = 0.75  # if at least this share of an image is background, the rest may be strokes


class Suggestion(NamedTuple):
    """A suggested kind.

    Attributes:
        kind: photographs, symbols, microscopy, satellite, grey or drawings.
        because: the reason, as a sentence with figures.
        sure: whether all tests that led to it were clear.
    """

    kind: str
    because: str
    sure: bool


@dataclass(frozen=True)
class Signs:
    """What the tests found.

    Attributes:
        images: number of images that were looked at.
        coloured: share of the images that have colours.
        background: share of an image that has about its most frequent grey level; median over the images.
        paper: share of the images in which that level is nearly black or nearly white.
        stroke: width of what is not background, as a share of the side; median over the images.
        turned: share of the images that the classifier tells from their turned copy (0.5: chance). This is
            the larger one of the shares for 90 and for 180 degrees.
        mirrored: share of the images that the classifier tells from their mirror image (0.5: chance).
        centred: how far the centre differs from the border in brightness, colour or edges, in standard
            deviations between images.
        stained: share of the coloured pixels that absorb mostly green, relative to the image's lightest
            pixels.
    """

    images: int
    coloured: float
    background: float
    paper: float
    stroke: float
    turned: float
    mirrored: float
    centred: float
    stained: float


def suggest(pixels: NDArray[np.uint8]) -> Suggestion:
    """Suggest the kind of pictures.

    Args:
        pixels: (n, S, S, C) uint8, squares of a random sample of the images in random order. n is at least 1
            and S at least 8; 32 to 64 px are enough. If C is not 3, the mean of the channels counts as grey.
    """
    found = signs(pixels)
    tested = found.images >= FEWEST
    strokes = _strokes(found)
    if strokes is not None:
        return strokes._replace(sure=strokes.sure and tested)
    if found.coloured < 0.05:
        return Suggestion("grey", f"{100 * (1 - found.coloured):.0f} % of the images have no colours", tested)
    stained = found.stained > 0.6
    clear = 0.53 + 1 / np.sqrt(found.images)  # chance, two standard errors and a margin of 0.03
    if tested and found.turned < clear:
        turned = f"{100 * found.turned:.0f} % can be told from a turned copy (chance: 50 %)"
        because = f"no direction is special: {turned}"
        if stained:
            return Suggestion(
                "microscopy", f"{because}, and {100 * found.stained:.0f} % of the colours are stains", True
            )
        if found.centred > 0.3:
            return Suggestion("microscopy", f"{because}, and the images show single objects", False)
        return Suggestion("satellite", f"{because}, and the centre is like the border", found.turned < 0.56)
    if stained and found.paper > 0.6:
        because = f"{100 * found.stained:.0f} % of the colours are stains on a light background"
        return Suggestion("microscopy", because, tested and found.stained > 0.75)
    sides = f"{100 * found.mirrored:.0f} % can be told from their mirror image (chance: 50 %)"
    if tested and found.mirrored > max(0.65, 0.5 + 1.5 / np.sqrt(found.images)):  # three standard errors
        return Suggestion("symbols", f"left and right have a meaning: {sides}", found.mirrored > 0.75)
    because = f"there are colours, up and down differ, and left and right hardly do: {sides}"
    return Suggestion("photographs", because, tested and found.mirrored < 0.58)


def _strokes(found: Signs) -> Suggestion | None:
    """Symbols or drawings, if the images are strokes on a background."""
    narrow = 0.25 if found.coloured < 0.05 else 0.06
    least = 0.45 if found.coloured < 0.05 and found.mirrored > 0.65 else _SPARSE
    if found.paper < 0.9 or found.background < least or found.stroke > narrow:
        return None
    kind = "drawings" if found.stroke < 0.035 else "symbols"
    because = (
        f"{100 * found.background:.0f} % of an image is background, "
        f"and strokes are {100 * found.stroke:.1f} % of a side wide"
    )
    return Suggestion(kind, because, found.background > _SPARSE and not 0.025 < found.stroke < 0.045)


def signs(pixels: NDArray[np.uint8]) -> Signs:
    """Run the tests. `pixels` are as in `suggest`."""
    x = _sample(pixels)
    n, grey = len(x), x @ _LUMA
    chroma = x.max(3) - x.min(3)
    coloured = ((chroma > _CHROMA / 2).mean((1, 2)) > 0.02).mean()
    share, level = _background(grey)
    light = np.quantile(x, 0.95, axis=(1, 2), keepdims=True)
    passing = x / np.maximum(1, light)  # the share of the light that passes, whatever the lamp's colour
    colours = passing.max(3) - passing.min(3) > _CHROMA / 255
    green = passing[..., 1] < np.minimum(passing[..., 0], passing[..., 2])
    coarse = _shrunk(x, _SIDE // 2)
    turned, mirrored = 1.0, 0.5
    if n >= FEWEST:
        turned = max(_told(coarse, _layout, turn) for turn in (_quarter, _half))
        mirrored = _told(coarse, _described, _mirror)
    return Signs(
        images=n,
        coloured=float(coloured),
        background=float(np.median(share)),
        paper=float(((level < 48) | (level > 207)).mean()),
        stroke=float(np.median(_stroke(grey, level))),
        turned=turned,
        mirrored=mirrored,
        centred=_centred(coarse),
        stained=float((green & colours).sum() / max(1, colours.sum())),
    )


def _sample(pixels: NDArray[np.uint8]) -> _Floats:
    """(n, S, S, C) uint8 -> (at most SAMPLE, s, s, 3) float32, shrunk."""
    rows = np.linspace(0, len(pixels) - 1, min(len(pixels), SAMPLE)).astype(int)
    x = _shrunk(pixels[rows].astype(np.float32), _SIDE)
    return x if x.shape[3] == 3 else np.repeat(x.mean(3, keepdims=True), 3, axis=3)


def _shrunk(x: _Floats, side: int) -> _Floats:
    """Average square blocks of pixels. At least `side` px are left; smaller images stay as they are."""
    n, S, _, C = x.shape
    step = max(1, S // side)
    kept = S // step * step
    small: _Floats = x[:, :kept, :kept].reshape(n, kept // step, step, kept // step, step, C).mean((2, 4))
    return small


def _background(grey: _Floats) -> tuple[_Floats, _Floats]:
    """Share of each image's pixels near its most frequent grey level (n,), and that level (n,), 0 to 255."""
    bins = (grey / 16).astype(int)
    counts = np.stack([(bins == level).mean((1, 2)) for level in range(16)], axis=1)
    near = np.pad(counts, ((0, 0), (1, 1)))
    near = near[:, :-2] + near[:, 1:-1] + near[:, 2:]
    level = 16 * counts.argmax(1) + 8
    return np.take_along_axis(near, counts.argmax(1)[:, None], 1)[:, 0], level.astype(np.float32)


def _stroke(grey: _Floats, level: _Floats) -> _Floats:
    """Width of what is not background, as a share of the side (n,): twice its area / length of its edges."""
    ink = np.abs(grey - level[:, None, None])
    ink = np.where(ink > 0.15 * ink.max((1, 2), keepdims=True), ink, 0)
    dx, dy = (np.abs(np.diff(ink, axis=axis)).sum((1, 2)) for axis in (2, 1))
    width: _Floats = 2 * ink.sum((1, 2)) / np.maximum(1e-6, np.hypot(dx, dy)) / grey.shape[1]
    return width


def _layout(x: _Floats) -> _Floats:
    """(n, S, S, 3) -> (n, 64): colour and strength of edges in 4 x 4 fields, relative to the image's mean."""
    gy, gx = np.gradient(x @ _LUMA, axis=(1, 2))
    # At the border, gradients are one-sided and so larger. Leave it out.
    stacked = np.concatenate([x, np.hypot(gx, gy)[..., None]], axis=3)[:, 1:-1, 1:-1]
    edges = np.linspace(0, stacked.shape[1], _FIELDS + 1).round().astype(int)
    sums = np.add.reduceat(np.add.reduceat(stacked, edges[:-1], axis=1), edges[:-1], axis=2)
    area = np.outer(np.diff(edges), np.diff(edges))[:, :, None]
    fields = (sums / area).reshape(len(x), _FIELDS**2, 4)
    relative: _Floats = fields / (fields.mean(1, keepdims=True) + 8)
    return relative.reshape(len(x), -1)


def _described(x: _Floats) -> _Floats:
    """(n, S, S, 3) -> (n, 192): `_layout`, and a histogram of the edges' directions in each field."""
    gy, gx = np.gradient(x @ _LUMA, axis=(1, 2))
    size, angle = np.hypot(gx, gy), np.arctan2(gy, gx) % np.pi
    n, S = size.shape[:2]
    field = np.minimum(np.arange(S) * _FIELDS // S, _FIELDS - 1)
    bins = np.minimum((angle / np.pi * _DIRECTIONS).astype(int), _DIRECTIONS - 1)
    place = np.arange(n)[:, None, None] * _FIELDS**2 + (field[:, None] * _FIELDS + field)
    votes = np.bincount((place * _DIRECTIONS + bins).ravel(), size.ravel(), n * _FIELDS**2 * _DIRECTIONS)
    edges = np.sqrt(votes.reshape(n, -1) / (size.sum((1, 2))[:, None] + 1e-6))
    return np.concatenate([_layout(x), edges.astype(np.float32)], axis=1)


def _quarter(x: _Floats) -> _Floats:
    return np.rot90(x, axes=(1, 2))


def _half(x: _Floats) -> _Floats:
    return x[:, ::-1, ::-1]


def _mirror(x: _Floats) -> _Floats:
    return x[:, :, ::-1]


def _told(x: _Floats, describe: Callable[[_Floats], _Floats], change: Callable[[_Floats], _Floats]) -> float:
    """Share of unseen images that a linear classifier tells from their changed copies (0.5: chance).

    An image and its copy differ by d, and exchanging them gives -d. So the classifier has no bias: it is a
    ridge regression of 1 on d.
    """
    odd = (describe(x) - describe(np.ascontiguousarray(change(x)))).astype(np.float64)
    odd /= np.sqrt((odd**2).mean(0)) + 1e-6
    fold, right = np.arange(len(odd)) * _FOLDS // len(odd), 0.0
    for k in range(_FOLDS):
        fit, test = odd[fold != k], odd[fold == k]
        w = np.linalg.solve(fit.T @ fit + fit.shape[1] * np.eye(fit.shape[1]), fit.sum(0))
        right += float((test @ w > 0).sum() + 0.5 * (test @ w == 0).sum())
    return right / len(odd)


def _centred(x: _Floats) -> float:
    """How far the four central fields differ from the others, in standard deviations between images."""
    fields = _layout(x).reshape(len(x), _FIELDS, _FIELDS, -1)
    inner = fields[:, 1:3, 1:3].mean((1, 2))
    differences = inner - (16 * fields.mean((1, 2)) - 4 * inner) / 12
    spread = differences.std(0) + 1e-6
    return float(np.abs(differences.mean(0) / spread).max())
