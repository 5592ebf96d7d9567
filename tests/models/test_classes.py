"""Measures by class against scikit-learn."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from models.evaluation.classes import (
    balanced_accuracy,
    confused,
    confusion,
    macro_f1,
    macro_f1_interval,
    precision,
    recall,
)


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


def test_the_interval_of_macro_f1_is_that_of_resampled_images() -> None:
    from sklearn.metrics import f1_score

    random = np.random.default_rng(1)
    label = random.integers(0, 3, 150)
    predicted = np.where(random.random(150) < 0.7, label, random.integers(0, 3, 150))
    drawn = []
    for _ in range(1000):
        some = random.integers(0, 150, 150)
        drawn.append(f1_score(label[some], predicted[some], average="macro"))
    found = macro_f1_interval(confusion(label, predicted, 3), seed=0)
    assert found == pytest.approx(np.quantile(drawn, (0.025, 0.975)).tolist(), abs=0.02)
