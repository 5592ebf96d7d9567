"""What a classifier gets right in each class, from its confusion matrix. Pure numpy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

DRAWS = 1000
"""Number of bootstrap resamples behind an interval."""


def confusion(label: NDArray[np.integer], predicted: NDArray[np.integer], classes: int) -> NDArray[np.int64]:
    """Count (true class, predicted class): two (N,) arrays of 0 to C - 1 -> (C, C) int64, true in rows."""
    pairs = np.asarray(label, np.int64) * classes + np.asarray(predicted, np.int64)
    return np.bincount(pairs, minlength=classes * classes).astype(np.int64).reshape(classes, classes)


def recall(matrix: NDArray[np.int64]) -> NDArray[np.float64]:
    """Share of each class's images that are right: (C, C) -> (C,) in [0, 1]; nan if it has no images."""
    return _share(matrix.diagonal(), matrix.sum(axis=1))


def precision(matrix: NDArray[np.int64]) -> NDArray[np.float64]:
    """Share of each class's answers that are right: (C, C) -> (C,) in [0, 1]; nan if it has no answers."""
    return _share(matrix.diagonal(), matrix.sum(axis=0))


def balanced_accuracy(matrix: NDArray[np.int64]) -> float:
    """The mean recall over the classes that have images, in [0, 1]; nan without any."""
    found = recall(matrix)
    known = found[~np.isnan(found)]
    return float(known.mean()) if known.size else float("nan")


def macro_f1(matrix: NDArray[np.int64]) -> float:
    """The mean over classes of 2 TP / (2 TP + FP + FN), in [0, 1]; nan without images.

    A class counts if it has images or if it is the answer for an image.
    """
    either = matrix.sum(axis=0) + matrix.sum(axis=1)
    known = either > 0
    return float((2 * matrix.diagonal()[known] / either[known]).mean()) if known.any() else float("nan")


def macro_f1_interval(matrix: NDArray[np.int64], *, seed: int, level: float = 0.95) -> tuple[float, float]:
    """Bootstrap interval of `macro_f1` over the choice of test images, in [0, 1].

    The ends are percentiles of the values of resamples.

    Args:
        matrix: (C, C) with at least one image.
        seed: seed of the resamples.
        level: probability that the interval contains the true value.
    """
    cells = np.nonzero(matrix)
    counts, n = matrix[cells], int(matrix.sum())
    random, drawn, again = np.random.default_rng(seed), [], np.zeros_like(matrix)
    for _ in range(DRAWS):
        again[cells] = random.multinomial(n, counts / n)
        drawn.append(macro_f1(again))
    low, high = np.quantile(drawn, ((1 - level) / 2, (1 + level) / 2)).tolist()
    return low, high


def confused(matrix: NDArray[np.int64]) -> list[tuple[int, int, int]]:
    """Pairs of classes that are taken for each other, most often first.

    Returns:
        (first, second, number of images of either class that were taken for the other), first < second. Pairs
        with equal numbers are ordered by class.
    """
    both = np.triu(matrix + matrix.T, 1)
    first, second = np.nonzero(both)
    times = both[first, second]
    order = np.argsort(-times, kind="stable")
    return [
        (int(a), int(b), int(n)) for a, b, n in zip(first[order], second[order], times[order], strict=True)
    ]


def _share(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    """Divide `part` by `whole`; nan where `whole` is 0."""
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)
