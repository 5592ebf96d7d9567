"""Align two images of the same picture: a shift and a scale per direction at which they correlate best."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.proposals import CUT

TINY = 1e-6


class Places(NamedTuple):
    """Where the second image of P pairs lies in the first: y = 0.5 + scale * (v - 0.5) + shift, same for x.

    Coordinates run from 0 to 1 over each image. All are (P, 2) float32, for rows and columns. A shape of
    (1, 2) gives all pairs the same values.
    """

    scale: NDArray[np.float32]
    shift: NDArray[np.float32]


def align(first: NDArray[np.float32], second: NDArray[np.float32]) -> tuple[Places, NDArray[np.float32]]:
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
    places = Places(np.ones((count, 2), np.float32), np.zeros((count, 2), np.float32))
    starts = [(1, 0), (1 - CUT, CUT / 2), (1 - CUT, -CUT / 2)]
    starts += [(1 / scale, -shift / scale) for scale, shift in starts[1:]]
    for rows, columns in product(starts, repeat=2):
        tried = Places(
            np.array([(rows[0], columns[0])], np.float32), np.array([(rows[1], columns[1])], np.float32)
        )
        _keep_better(places, best, tried, _overlap(first, second, tried).correlation())
    return _improved(first, second, places, best, 6)


def refine(
    first: NDArray[np.float32], second: NDArray[np.float32], places: Places, steps: int
) -> tuple[Places, NDArray[np.float32]]:
    """Like `align`, but only by Gauss-Newton steps from given places."""
    places = Places(places.scale.copy(), places.shift.copy())
    return _improved(first, second, places, _overlap(first, second, places).correlation(), steps)


def _keep_better(
    places: Places, best: NDArray[np.float32], tried: Places, correlation: NDArray[np.float32]
) -> None:
    """Replace the places, in place, where others give a higher correlation."""
    better = correlation > best
    best[better] = correlation[better]
    for kept, other in zip(places, tried, strict=True):
        np.copyto(kept, other, where=better[:, None])


def _improved(
    first: NDArray[np.float32],
    second: NDArray[np.float32],
    places: Places,
    best: NDArray[np.float32],
    steps: int,
) -> tuple[Places, NDArray[np.float32]]:
    """Improve `places`, whose correlation is `best`, by Gauss-Newton steps. Both are changed in place."""
    count, side, _ = first.shape
    slopes = np.gradient(first, 1 / side, axis=(1, 2))
    centred = (np.arange(side, dtype=np.float32) + 0.5) / side - 0.5
    tried = places
    met = _overlap(first, second, tried)
    for _ in range(steps):
        down, right = (met.rows @ slope @ met.columns for slope in slopes)
        change = np.stack([down * centred[:, None], right * centred, down, right], axis=1)
        change *= met.inside[:, None]
        change -= change.mean(axis=(2, 3), keepdims=True)  # as brightness is free
        change = change.reshape(count, 4, -1)
        gain = (met.one * met.other).sum((1, 2)) / ((met.one**2).sum((1, 2)) + TINY)  # as contrast is free
        change *= gain[:, None, None]
        left = (met.other - gain[:, None, None] * met.one).reshape(count, -1, 1)
        curvature = change @ change.transpose(0, 2, 1)
        damping = 1e-3 * np.trace(curvature, axis1=1, axis2=2) + TINY
        curvature += damping[:, None, None] * np.eye(4, dtype=np.float32)
        step = np.linalg.solve(curvature, change @ left)[..., 0].clip(-CUT, CUT)
        tried = Places(
            (tried.scale + step[:, :2]).clip(0.8, 1.25), (tried.shift + step[:, 2:]).clip(-0.12, 0.12)
        )
        met = _overlap(first, second, tried)
        _keep_better(places, best, tried, met.correlation())
    return places, best


class _Overlap(NamedTuple):
    """Both images of P pairs where they overlap, minus their mean there, and 0 elsewhere.

    The first is resampled to the pixels of the second: rows @ first @ columns. `inside` is 1 where they
    overlap, else 0. Rows, columns and `inside` have one item for all pairs if the places do.
    """

    one: NDArray[np.float32]
    other: NDArray[np.float32]
    inside: NDArray[np.float32]
    rows: NDArray[np.float32]
    columns: NDArray[np.float32]

    def correlation(self) -> NDArray[np.float32]:
        """(P,) float32 in [-1, 1]."""
        product = (self.one * self.other).sum((1, 2))
        energy = (self.one**2).sum((1, 2)) * (self.other**2).sum((1, 2))
        return np.asarray(product / np.sqrt(energy + TINY), np.float32)


def _overlap(first: NDArray[np.float32], second: NDArray[np.float32], places: Places) -> _Overlap:
    side = first.shape[1]
    centred = (np.arange(side, dtype=np.float32) + 0.5) / side - 0.5
    where = 0.5 + places.scale[..., None] * centred + places.shift[..., None]  # (P, 2, S)
    within = ((where >= 0) & (where <= 1)).astype(np.float32)
    pixel = (where * side - 0.5).clip(0, side - 1)
    weights = pixel[..., None] - np.arange(side, dtype=np.float32)
    np.abs(weights, out=weights)
    np.subtract(1, weights, out=weights)
    np.maximum(0, weights, out=weights)
    rows, columns = weights[:, 0], weights[:, 1].transpose(0, 2, 1)
    inside = within[:, 0, :, None] * within[:, 1, None, :]
    area = inside.sum((1, 2), keepdims=True) + TINY
    one, other = (
        (image - (image * inside).sum((1, 2), keepdims=True) / area) * inside
        for image in (rows @ first @ columns, second)
    )
    return _Overlap(one, other, inside, rows, columns)
