"""Measures by class against scikit-learn."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from models.evaluation.classes import balanced_accuracy, confused, confusion, macro_f1, precision, recall


@pytest.mark.parametrize(
    ("n", "classes", "noise"), [(1, 2, 0.0), (40, 3, 0.5), (500, 12, 0.8), (60, 30, 1.0)]
)
def test_equals_scikit_learn(n, classes, noise):
    from sklearn import metrics

    rng = np.random.default_rng(n)
    label = rng.integers(0, classes, n) ** 2 // classes  # uneven, and some classes have no image
    predicted = np.where(rng.random(n) < noise, rng.integers(0, classes, n), label)
    matrix = confusion(label, predicted, classes)
    assert (matrix == metrics.confusion_matrix(label, predicted, labels=range(classes))).all()
    p, r, _, support = metrics.precision_recall_fscore_support(
        label, predicted, labels=range(classes), zero_division=np.nan
    )
    assert recall(matrix) == pytest.approx(np.where(support > 0, r, np.nan), nan_ok=True)
    assert precision(matrix) == pytest.approx(p, nan_ok=True)
    assert macro_f1(matrix) == pytest.approx(metrics.f1_score(label, predicted, average="macro"))
    with warnings.catch_warnings():  # it warns of answers without an image of their class
        warnings.simplefilter("ignore", UserWarning)
        assert balanced_accuracy(matrix) == pytest.approx(metrics.balanced_accuracy_score(label, predicted))


def test_without_images_there_is_no_mean():
    empty = np.zeros((3, 3), np.int64)
    assert np.isnan(balanced_accuracy(empty))
    assert np.isnan(macro_f1(empty))


def test_pairs_count_both_directions_and_come_in_order():
    matrix = np.array([[9, 2, 1], [3, 9, 0], [4, 0, 9]])
    assert confused(matrix) == [(0, 1, 5), (0, 2, 5)]
    matrix[2, 1] = 6
    assert confused(matrix) == [(1, 2, 6), (0, 1, 5), (0, 2, 5)]
