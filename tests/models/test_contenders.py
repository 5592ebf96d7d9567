"""Comparing classifiers by labels: folds, temperatures, mixtures, and a linear head judged out of fold."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from models.evaluation.contenders import (
    OutOfFold,
    class_weights,
    folds_of,
    for_all_labels,
    like_all,
    mixture_weights,
    smoothed,
    temperature,
    tempered,
)


def _logits(n: int, classes: int, seed: int = 0, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels drawn from their softmax: predictions that are calibrated at temperature `scale`."""
    draw = np.random.default_rng(seed)
    z = 2 * draw.normal(size=(n, classes))
    label = np.array([draw.choice(classes, p=p) for p in softmax(z, axis=1)])
    return z * scale, label


@pytest.mark.parametrize("sizes", [[5] * 10, [1, 2, 30], [7, 3, 9, 4]])
def test_folds_hold_each_class_evenly(sizes: list[int]) -> None:
    label = np.repeat(np.arange(len(sizes)), sizes)
    fold = folds_of(label, 4, seed=3)
    for c, size in enumerate(sizes):
        mine = fold[label == c]
        if size == 1:
            assert (mine == -1).all()
            continue
        counts = np.bincount(mine, minlength=4)
        assert counts.max() - counts.min() <= 1
        assert counts.max() < size, "a fold must leave at least one label of the class to learn"
    used = np.bincount(fold[fold >= 0], minlength=4)
    assert used.max() - used.min() <= len(sizes)


def test_folds_are_a_draw() -> None:
    label = np.repeat(np.arange(4), 8)
    assert np.array_equal(folds_of(label, 4, 1), folds_of(label, 4, 1))
    assert not np.array_equal(folds_of(label, 4, 1), folds_of(label, 4, 2))


def test_a_classifier_of_frequencies_alone_names_no_class_in_place_of_another() -> None:
    """What it says out of fold are the frequencies of all labels, whatever the fold has taken away."""
    label = np.repeat(np.arange(4), [2, 5, 9, 1])
    fold = folds_of(label, 3, seed=1)
    for number in range(3):
        learned = label[fold != number]
        share = np.bincount(learned, minlength=5) / len(learned)
        z = like_all(np.log(np.maximum(share, 1e-9))[None], learned, label)
        assert softmax(z, axis=1)[0] == pytest.approx(np.bincount(label, minlength=5) / len(label), abs=1e-6)


def test_frequencies_are_exchanged_by_bayes_rule() -> None:
    """Two normal densities: the logits with other frequencies are those of the other prior."""
    x = np.linspace(-3, 3, 13)
    density = np.stack([np.exp(-((x - m) ** 2) / 2) for m in (-1.0, 1.0)], axis=1)
    learned, label = np.repeat([0, 1], [3, 9]), np.repeat([0, 1], [4, 10])
    seen, wanted = (density * np.bincount(y) for y in (learned, label))
    found = softmax(like_all(np.log(seen), learned, label), axis=1)
    assert found == pytest.approx(wanted / wanted.sum(axis=1, keepdims=True))


def test_with_many_labels_the_folds_know_as_much() -> None:
    label = np.repeat(np.arange(2), 500_000)
    assert for_all_labels(2.0, label, len(label), 4) == pytest.approx(2.0, rel=1e-5)


def test_a_classifier_of_all_labels_is_more_confident_than_those_of_the_folds() -> None:
    """2 of 100 classes have 3 labels each, of which a fold takes one: 2 are learned. Others don't count."""
    assert for_all_labels(2.0, np.array([7, 7, 7, 99, 99, 99]), 6, 3) == pytest.approx(2.0 * np.exp(-1 / 2))
    assert for_all_labels(2.0, np.array([3, 5]), 0, 3) == 2.0


@pytest.mark.parametrize("scale", [0.2, 1.0, 5.0])
def test_temperature_undoes_a_scale(scale: float) -> None:
    z, label = _logits(20_000, 5, scale=scale)
    assert temperature(z, smoothed(label, 5)) == pytest.approx(scale, rel=0.05)


def test_temperature_is_the_minimum() -> None:
    z, label = _logits(200, 3, seed=4)
    target = smoothed(label, 3)

    def loss(t: float) -> float:
        return float(-(target * log_softmax(z / t, axis=1)).sum(1).mean())

    found = temperature(z, target)
    assert loss(found) <= min(loss(found * f) for f in (0.98, 0.999, 1.001, 1.02)) + 1e-9


def test_a_classifier_that_is_always_right_stays_in_doubt() -> None:
    """With n of n right, the confidence tends to (n + 1) / (n + 2), Laplace's rule, and not to 1."""
    n = 20
    label = np.arange(n) % 2
    z = np.where(label[:, None] == np.arange(2), 1.0, -1.0)
    held = OutOfFold(label, z)
    confidence = held.probabilities(held.temperature).max(axis=1)
    assert confidence == pytest.approx((n + 1) / (n + 2), abs=1e-3)


def test_mixture_weights_maximise_the_posterior() -> None:
    from scipy.optimize import minimize

    draw = np.random.default_rng(1)
    z, label = _logits(300, 4, seed=2)
    p = np.stack([softmax(z + s * draw.normal(size=z.shape), axis=1) for s in (0.5, 2.0, 4.0)])
    prior = 3.0
    found = mixture_weights(p, label, prior)
    likelihood = p[:, np.arange(300), label]

    def loss(free: np.ndarray) -> float:
        w = softmax(np.append(free, 0.0))
        return float(-np.log(w @ likelihood).sum() - prior / 3 * np.log(w).sum())

    other = softmax(np.append(minimize(loss, np.zeros(2), method="Nelder-Mead", tol=1e-10).x, 0.0))
    assert found == pytest.approx(other, abs=1e-3)
    assert found.sum() == pytest.approx(1)
    assert found[0] > found[1] > found[2]


def test_few_labels_leave_equal_weights() -> None:
    p = np.full((4, 0, 3), 1 / 3)
    assert mixture_weights(p, np.zeros(0, int), 5.0) == pytest.approx(0.25)
    one = np.array([[[0.9, 0.1]], [[0.1, 0.9]]])
    assert mixture_weights(one, np.array([0]), 50.0) == pytest.approx(0.5, abs=0.02)


def test_tempered_probabilities_are_those_of_tempered_logits() -> None:
    z, _ = _logits(50, 6)
    assert tempered(softmax(z, axis=1), 3.0) == pytest.approx(softmax(z / 3.0, axis=1), abs=1e-9)


def test_each_class_counts_the_same() -> None:
    label = np.repeat([0, 1, 4], [6, 2, 4])
    weight = class_weights(label)
    assert weight.mean() == pytest.approx(1)
    assert [weight[label == c].sum() for c in (0, 1, 4)] == pytest.approx([4, 4, 4])


def test_weights_are_like_repeated_images() -> None:
    """Balanced, classes of 20 and 60 images are like 60 and 60 where each of the 20 comes three times."""
    z, label = _logits(4000, 2, seed=3, scale=2.0)
    rows = np.concatenate([np.flatnonzero(label == 0)[:20], np.flatnonzero(label == 1)[:60]])
    often = np.concatenate([np.repeat(rows[:20], 3), rows[20:]])
    few, many = OutOfFold(label[rows], z[rows], balanced=True), OutOfFold(label[often], z[often])
    assert few.accuracy == pytest.approx(many.accuracy)
    assert few.accuracy != pytest.approx(OutOfFold(label[rows], z[rows]).accuracy)
    target = smoothed(label, 2)
    assert temperature(z[rows], target[rows], few.weight) == pytest.approx(
        temperature(z[often], target[often]), rel=1e-4
    )
    p = np.stack([softmax(z / t, axis=1) for t in (0.5, 2.0, 8.0)])
    # The prior counts as images, and the repeated ones are 120 in place of 80.
    assert mixture_weights(p[:, rows], label[rows], 5.0, few.weight) == pytest.approx(
        mixture_weights(p[:, often], label[often], 7.5), abs=1e-4
    )
