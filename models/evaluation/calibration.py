"""How far a classifier's probabilities can be believed. Pure numpy; training is not here.

The calibration error is the root of the mean squared gap between confidence and accuracy over bins of equal
mass. Its square is debiased as in Kumar, Liang and Ma (2019), "Verified Uncertainty Calibration", section 5:
each bin's squared gap is reduced by the variance of its accuracy. Without that, a perfectly calibrated model
would show an error, which grows as test images become fewer.

The probabilities are the softmax of the logits. The confidence of an answer is the probability of the
predicted class.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS = 10
"""Maximum number of bins of equal mass."""
FEWEST = 5
"""Minimum of the mean number of images per bin. With fewer than BINS * FEWEST images there are fewer bins."""
DRAWS = 1000
"""Number of bootstrap resamples behind an interval."""
SMALLEST = 1e-12
"""Smallest probability whose logarithm is taken."""


@dataclass(frozen=True)
class Bin:
    """Images of similar confidence.

    Attributes:
        n: number of images.
        low: smallest confidence.
        high: largest confidence.
        confidence: mean confidence.
        accuracy: share of the images whose answer is right.
    """

    n: int
    low: float
    high: float
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Answered:
    """The accuracy if only the most confident answers count.

    Attributes:
        share: share of the images whose answers count, in (0, 1].
        n: number of these images.
        threshold: smallest confidence among them.
        accuracy: share of them that are right. Images of equal confidence each count as their mean.
    """

    share: float
    n: int
    threshold: float
    accuracy: float


def softmax(logits: NDArray[np.floating], temperature: float = 1.0) -> NDArray[np.float64]:
    """Divide logits (N, C) by a temperature and normalise: (N, C) float64, each row sums to 1.

    Raises:
        ValueError: the temperature is not above 0.
    """
    if not temperature > 0:
        raise ValueError(f"temperature {temperature}: must be above 0")
    z = np.asarray(logits, np.float64) / temperature
    e = np.exp(z - z.max(axis=1, keepdims=True))
    scaled: NDArray[np.float64] = e / e.sum(axis=1, keepdims=True)
    return scaled


def ranked(probability: NDArray[np.float64], most: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The most likely classes of each image, and their probabilities, in descending order.

    Of equally likely classes, the one with the smaller number comes first.

    Args:
        probability: (N, C).
        most: number of classes, at least 1.

    Returns:
        Classes (N, m) int64 and probabilities (N, m), where m is the smaller of `most` and C.
    """
    classes = np.argsort(-probability, axis=1, kind="stable")[:, :most]
    return classes, np.take_along_axis(probability, classes, axis=1)


def log_loss(probability: NDArray[np.float64], label: NDArray[np.int64]) -> float:
    """Mean of -ln p(true class). probability: (N, C), rows sum to 1; label: (N,) 0 to C - 1; N >= 1."""
    true = probability[np.arange(len(label)), label]
    return float(-np.log(np.maximum(true, SMALLEST)).mean())


def brier(probability: NDArray[np.float64], label: NDArray[np.int64]) -> float:
    """Mean squared distance to the true class (Brier 1950), in [0, 2]; arguments as in `log_loss`."""
    squares = (probability**2).sum(axis=1)
    true = probability[np.arange(len(label)), label]
    return float((squares - 2 * true + 1).mean())


def bins(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> list[Bin]:
    """Sort images by confidence into at most `BINS` bins of equal mass. Equal confidences share a bin.

    Args:
        confidence: (N,) in [0, 1], N >= 1.
        right: (N,) whether the answer is right.
    """
    order = np.argsort(confidence, kind="stable")
    sure, good = confidence[order], right[order].astype(np.float64)
    starts = _starts(sure)
    ends = np.append(starts[1:], len(sure))
    return [
        Bin(int(b - a), float(sure[a]), float(sure[b - 1]), float(sure[a:b].mean()), float(good[a:b].mean()))
        for a, b in zip(starts.tolist(), ends.tolist(), strict=True)
    ]


def calibration_error(found: list[Bin]) -> float:
    """The debiased root mean squared gap between confidence and accuracy, in [0, 1].

    Kumar et al. (2019), section 5: the square is the mean over images of (c - a)² - a (1 - a) / (n - 1).
    c, a and n are the mean confidence, the accuracy and the number of images of an image's bin. A negative
    square counts as 0. The variance of a bin of one image is unknown, so nothing is subtracted.
    """
    return _root(_debiased(*_columns(found)))


def expected_calibration_error(found: list[Bin]) -> float:
    """The plain ECE: mean absolute gap between confidence and accuracy, in [0, 1]. It is biased upwards."""
    n, c, a = _columns(found)
    return float((n * np.abs(c - a)).sum() / n.sum())


def calibration_interval(
    confidence: NDArray[np.float64], right: NDArray[np.bool_], *, seed: int, level: float = 0.95
) -> tuple[float, float]:
    """Bootstrap interval of `calibration_error` over the choice of test images, in [0, 1].

    It is the basic bootstrap of the squared error. A resample's debiased square differs from the sample's
    plain square. The sample's debiased square is assumed to differ from the truth in the same way. The images
    of a resample keep their bins.

    Args:
        confidence: (N,) in [0, 1], N >= 1.
        right: (N,) whether the answer is right.
        seed: seed of the resamples.
        level: probability that the interval contains the true value.
    """
    order = np.argsort(confidence, kind="stable")
    sure, good = confidence[order], right[order].astype(np.float64)
    starts, total = _starts(sure), len(sure)
    random, drawn = np.random.default_rng(seed), []
    for _ in range(DRAWS):
        weight = np.bincount(random.integers(0, total, total), minlength=total).astype(np.float64)
        n = np.add.reduceat(weight, starts)
        some = np.maximum(n, 1)
        c, a = (np.add.reduceat(weight * values, starts) / some for values in (sure, good))
        drawn.append(_debiased(n, c, a))
    n, c, a = _columns(bins(confidence, right))
    estimate, plain = _debiased(n, c, a), float((n * (c - a) ** 2).sum() / n.sum())
    above, below = np.quantile(drawn, ((1 + level) / 2, (1 - level) / 2)).tolist()
    return min(1.0, _root(estimate + plain - above)), min(1.0, _root(estimate + plain - below))


def answered(
    confidence: NDArray[np.float64], right: NDArray[np.bool_], shares: tuple[float, ...]
) -> list[Answered]:
    """The accuracy if only the most confident answers count, for several shares of the images.

    Args:
        confidence: (N,) in [0, 1], N >= 1.
        right: (N,) whether the answer is right.
        shares: each in (0, 1]. The number of images is rounded up.
    """
    order = np.argsort(-confidence, kind="stable")
    sure, good = confidence[order], right[order].astype(np.float64)
    # Images of equal confidence can't be ranked, so each counts as the mean of its group.
    first = np.flatnonzero(np.diff(sure, prepend=np.inf))
    size = np.diff(np.append(first, len(sure)))
    good = np.repeat(np.add.reduceat(good, first) / size, size)
    so_far = np.cumsum(good)
    found = []
    for share in shares:
        n = max(1, int(np.ceil(share * len(sure) - 1e-9)))
        found.append(Answered(share, n, float(sure[n - 1]), float(so_far[n - 1] / n)))
    return found


def _starts(sure: NDArray[np.float64]) -> NDArray[np.int64]:
    """Where the bins of ascending confidences start. A bin never starts within equal confidences."""
    total = len(sure)
    used = max(1, min(BINS, total // FEWEST))
    wanted = np.arange(used) * total // used
    return np.unique(np.searchsorted(sure, sure[wanted], side="left")).astype(np.int64)


def _columns(found: list[Bin]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    n, c, a = (
        np.array([getattr(each, name) for each in found], np.float64)
        for name in ("n", "confidence", "accuracy")
    )
    return n, c, a


def _debiased(n: NDArray[np.float64], c: NDArray[np.float64], a: NDArray[np.float64]) -> float:
    """The debiased square, from each bin's images n, mean confidence c and accuracy a. It may be negative."""
    variance = np.where(n > 1, a * (1 - a) / np.maximum(n - 1, 1), 0.0)
    return float((n * ((c - a) ** 2 - variance)).sum() / n.sum())


def _root(square: float) -> float:
    return float(np.sqrt(max(square, 0.0)))
