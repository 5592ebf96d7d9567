"""Compares classifiers by the labels at hand: folds, temperatures, and the weights of a mixture.

n labelled images, C classes, M classifiers. An out-of-fold prediction is one for an image whose label the
classifier was not trained on. Everything here reads out-of-fold predictions only, so what it says of a
classifier holds for new images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from data import draws

COLDEST, HOTTEST = 0.01, 100.0
"""Bounds of a temperature."""
MORE = 1.0
"""The a of `for_all_labels`, chosen by the training labels of sets of own photos (docs/decisions/0018)."""
_ROUNDS = 2000
"""Maximum number of rounds of expectation and maximisation; each raises the likelihood."""


def folds_of(label: NDArray[np.integer], folds: int, seed: int) -> NDArray[np.int64]:
    """Split labelled images into folds, each class evenly.

    The classifier of a fold learns the labels of all other folds, and predicts the images of its own. The
    only label of a class is in no fold, because the classifier that predicts it would not know the class.

    Args:
        label: (n,) classes.
        folds: number of folds, at least 2.
        seed: of the random order.

    Returns:
        (n,) int64, 0 to folds - 1, or -1 for an image in no fold.
    """
    order = draws.permutation(draws.key(seed, "folds"), len(label))
    fold = np.full(len(label), -1, np.int64)
    first = 0
    for c in np.unique(label):
        members = order[label[order] == c]
        if len(members) > 1:
            # Classes begin at different folds, or else the first folds would get most of the images.
            fold[members] = (first + np.arange(len(members))) % folds
            first += len(members)
    return fold


def like_all(
    logits: NDArray[np.floating], learned: NDArray[np.integer], label: NDArray[np.integer]
) -> NDArray[np.float64]:
    """What a classifier of some labels would say if each class were as frequent among them as among all.

    A fold takes labels away from just those classes on whose images it is judged. To its classifier these
    classes are rarer than the others, so without this it is judged too badly. With two labels per class and
    weak features, it would name the right class less often than chance does. The logits lose the logarithm of
    how often it saw a class, and get that of how often the class occurs (Saerens et al. 2002, equation 4).

    Args:
        logits: (n, C) of a classifier that learned each label as often as any other.
        learned: (l,) classes of the labels that it learned.
        label: (m,) classes of all labels.

    Returns:
        (n, C) float64. Classes without a label in either keep their logits.
    """
    classes = logits.shape[1]
    some, every = (np.bincount(each, minlength=classes) for each in (learned, label))
    known = (some > 0) & (every > 0)
    found = np.asarray(logits, np.float64).copy()
    found[:, known] += np.log(every[known] / some[known])
    return found


def smoothed(label: NDArray[np.integer], classes: int) -> NDArray[np.float64]:
    """One-hot labels, smoothed as if each image had been seen among n + 2 (Platt 1999, section 2.2).

    Without this, a classifier that is right about all n images would be taken to be always right.

    Args:
        label: (n,) classes.
        classes: C, at least 2.

    Returns:
        (n, C) float64; rows sum to 1, the label has (n + 1) / (n + 2).
    """
    n = len(label)
    rows = np.full((n, classes), 1 / (n + 2) / (classes - 1))
    rows[np.arange(n), label] = (n + 1) / (n + 2)
    return rows


def class_weights(label: NDArray[np.integer]) -> NDArray[np.float64]:
    """Weights with which every class counts the same: (n,) classes -> (n,), their mean is 1."""
    _, which, count = np.unique(label, return_inverse=True, return_counts=True)
    found: NDArray[np.float64] = len(label) / len(count) / count[which]
    return found


def temperature(
    logits: NDArray[np.floating],
    target: NDArray[np.floating],
    weight: NDArray[np.floating] | None = None,
) -> float:
    """The T at which softmax(logits / T) has the least cross-entropy with the targets (Guo et al. 2017).

    Args:
        logits: (n, C).
        target: (n, C), rows sum to 1: `smoothed` labels, or probabilities that can be believed.
        weight: (n,), how much each image counts; None: all the same.

    Returns:
        T from 0.01 to 100; 1 if there is no image.
    """
    if not len(logits):
        return 1.0
    z = np.asarray(logits, np.float64)

    def loss(log_t: float) -> float:
        each = -(target * log_softmax(z / np.exp(log_t), axis=1)).sum(axis=1)
        return float(np.average(each, weights=weight))

    found = minimize_scalar(loss, bounds=(np.log(COLDEST), np.log(HOTTEST)), method="bounded")
    return float(np.exp(found.x))


def for_all_labels(t: float, label: NDArray[np.integer], judged: int, folds: int) -> float:
    """The temperature of a classifier of all labels, where T suits the classifiers of the folds.

    It has learned more labels than they have, so it may be more confident: T exp(-a / m), where m is the mean
    number of labels that they learned of each class that has labels. a is `MORE`.

    Args:
        t: T that suits predictions out of fold.
        label: (n,) classes of all labels.
        judged: number of labels that are in a fold. If it is 0, nothing suits anything, and T stays.
        folds: number of folds.
    """
    if not judged:
        return t
    learned = (len(label) - judged / folds) / len(np.unique(label))
    return t * float(np.exp(-MORE / learned))


def tempered(probabilities: NDArray[np.floating], t: float) -> NDArray[np.float64]:
    """Apply a temperature to probabilities that are a softmax of logits: (n, C) -> (n, C) float64."""
    log_p = np.log(np.maximum(np.asarray(probabilities, np.float64), 1e-30))
    found: NDArray[np.float64] = softmax(log_p / t, axis=1)
    return found


def mixture_weights(
    probabilities: NDArray[np.floating],
    label: NDArray[np.integer],
    prior: float,
    weight: NDArray[np.floating] | None = None,
) -> NDArray[np.float64]:
    """Weights w of the mixture sum_m w_m p_m under which the labels are likeliest.

    Expectation and maximisation with a Dirichlet prior, which adds `prior` images to the evidence, shared
    evenly. So few labels leave the weights near 1 / M. The objective is concave and has one maximum.

    Args:
        probabilities: (M, n, C), out of fold.
        label: (n,) classes.
        prior: above 0.
        weight: (n,), how much each image counts, mean 1; None: all the same.

    Returns:
        (M,) float64, above 0, sum 1.
    """
    m, n = probabilities.shape[:2]
    w: NDArray[np.float64] = np.full(m, 1 / m)
    if not n:
        return w
    likelihood = np.maximum(probabilities[:, np.arange(n), label], 1e-12)
    counts = np.ones(n) if weight is None else np.asarray(weight, np.float64)
    for _ in range(_ROUNDS):
        share = w[:, None] * likelihood
        share /= share.sum(axis=0)
        new: NDArray[np.float64] = (share @ counts + prior / m) / (n + prior)
        if np.abs(new - w).max() < 1e-7:
            return new
        w = new
    return w


@dataclass(frozen=True)
class OutOfFold:
    """Out-of-fold predictions of one classifier.

    Attributes:
        label: (n,) int64 classes of the images that are in a fold.
        logits: (n, C) float64.
        balanced: whether each class counts the same, however many images it has, instead of each image.
    """

    label: NDArray[np.int64]
    logits: NDArray[np.float64]
    balanced: bool = False

    @property
    def weight(self) -> NDArray[np.float64]:
        """(n,) float64, how much each image counts; the mean is 1."""
        return class_weights(self.label) if self.balanced else np.ones(len(self.label))

    @property
    def right(self) -> NDArray[np.bool_]:
        """(n,) whether each image is classified as labelled."""
        found: NDArray[np.bool_] = self.logits.argmax(axis=1) == self.label
        return found

    @property
    def accuracy(self) -> float:
        """Share of the images classified as labelled; NaN if no image is in a fold."""
        return float(np.average(self.right, weights=self.weight)) if len(self.label) else float("nan")

    @property
    def temperature(self) -> float:
        """T that suits the predictions."""
        return temperature(self.logits, smoothed(self.label, self.logits.shape[1]), self.weight)

    @property
    def loss(self) -> float:
        """Cross-entropy with the smoothed labels at the best temperature; 0 if no image is in a fold."""
        if not len(self.label):
            return 0.0
        target = smoothed(self.label, self.logits.shape[1])
        log_p = log_softmax(self.logits / self.temperature, axis=1)
        return float(np.average(-(target * log_p).sum(axis=1), weights=self.weight))

    def probabilities(self, t: float) -> NDArray[np.float64]:
        """(n, C) softmax(logits / t)."""
        found: NDArray[np.float64] = softmax(self.logits / t, axis=1)
        return found
