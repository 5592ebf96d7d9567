"""Calibration against scikit-learn, slow rewrites and closed forms."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from models.evaluation.calibration import (
    Bin,
    answered,
    bins,
    brier,
    calibration_error,
    calibration_interval,
    expected_calibration_error,
    log_loss,
    softmax,
)


def simulated(n: int, seed: int, *, by: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Confidences, and answers that are right with probability confidence - by."""
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(0.3, 1.0, n)
    return confidence, rng.random(n) < confidence - by


def test_softmax_with_a_temperature():
    logits = np.array([[1.0, 2.0, 4.0], [1000.0, 0.0, -1000.0]])
    expected = np.exp(logits[0] / 2.5)
    assert softmax(logits, 2.5)[0] == pytest.approx(expected / expected.sum())
    assert softmax(logits)[1] == pytest.approx([1, 0, 0])
    with pytest.raises(ValueError, match="above 0"):
        softmax(logits, 0.0)


def test_losses_equal_scikit_learn():
    from sklearn import metrics

    rng = np.random.default_rng(0)
    p, label = softmax(rng.normal(size=(200, 5))), rng.integers(0, 5, 200)
    assert log_loss(p, label) == pytest.approx(metrics.log_loss(label, p, labels=range(5)))
    two, binary = p[:, :2] / p[:, :2].sum(1, keepdims=True), label % 2
    # scikit-learn counts one of the two classes, and the formula both.
    assert brier(two, binary) == pytest.approx(2 * metrics.brier_score_loss(binary, two[:, 1]))
    assert brier(np.eye(3), np.array([0, 1, 1])) == pytest.approx(2 / 3)


def test_bins_are_those_of_scikit_learn_where_no_confidence_comes_twice():
    from sklearn.calibration import calibration_curve

    confidence, right = simulated(400, 1)
    found = bins(confidence, right)
    share, mean = calibration_curve(right, confidence, n_bins=10, strategy="quantile")
    assert [each.n for each in found] == [40] * 10
    assert [each.accuracy for each in found] == pytest.approx(share.tolist())
    assert [each.confidence for each in found] == pytest.approx(mean.tolist())


@pytest.mark.parametrize(("n", "wanted"), [(1, 1), (9, 1), (10, 2), (49, 9), (50, 10), (1003, 10)])
def test_bins_hold_every_image_once_and_at_least_five(n, wanted):
    confidence, right = simulated(n, n)
    found = bins(confidence, right)
    assert len(found) == wanted
    assert sum(each.n for each in found) == n
    assert sum(each.n * each.accuracy for each in found) == pytest.approx(right.sum())
    assert min(each.n for each in found) >= min(n, 5)
    assert max(each.n for each in found) - min(each.n for each in found) <= 1
    assert all(a.high <= b.low for a, b in pairwise(found))


def test_equal_confidences_share_a_bin_so_that_the_order_of_images_does_not_matter():
    rng = np.random.default_rng(0)
    confidence = np.concatenate([np.ones(70), rng.uniform(0.2, 0.9, 30)])
    right = np.arange(100) < 50
    found = bins(confidence, right)
    assert found[-1].n == 70
    shuffled = rng.permutation(100)
    assert bins(confidence[shuffled], right[shuffled]) == found


def test_the_error_equals_its_formula_written_with_loops():
    confidence, right = simulated(237, 3, by=0.2)
    total = 0.0
    for each in bins(confidence, right):
        inside = [i for i in range(237) if each.low <= confidence[i] <= each.high]
        c = sum(confidence[i] for i in inside) / len(inside)
        a = sum(bool(right[i]) for i in inside) / len(inside)
        total += len(inside) / 237 * ((c - a) ** 2 - a * (1 - a) / (len(inside) - 1))
    assert calibration_error(bins(confidence, right)) == pytest.approx(total**0.5)


def test_errors_in_closed_form():
    found = [Bin(3, 0.4, 0.6, 0.5, 1.0), Bin(1, 0.9, 0.9, 0.9, 1.0)]
    assert expected_calibration_error(found) == pytest.approx((3 * 0.5 + 0.1) / 4)
    assert calibration_error(found) == pytest.approx(((3 * 0.25 + 0.01) / 4) ** 0.5)  # no variance at 1
    assert calibration_error([Bin(10, 0.5, 0.5, 0.5, 0.5)]) == 0  # the square would be negative


def test_debiasing_takes_away_what_a_calibrated_model_seems_to_err():
    squares, plain = [], []
    for seed in range(300):
        found = bins(*simulated(100, seed))
        n, c, a = (np.array([getattr(b, name) for b in found]) for name in ("n", "confidence", "accuracy"))
        plain.append((n * (c - a) ** 2).sum() / 100)
        squares.append(plain[-1] - (n * a * (1 - a) / (n - 1)).sum() / 100)
        assert calibration_error(found) == pytest.approx(max(0, squares[-1]) ** 0.5)
    assert np.mean(plain) > 0.015
    assert abs(np.mean(squares)) < 0.0015


@pytest.mark.parametrize("by", [0.0, 0.15])
def test_the_interval_covers_the_true_error(by, monkeypatch):
    monkeypatch.setattr("models.evaluation.calibration.DRAWS", 200)
    inside = []
    for seed in range(100):
        confidence, right = simulated(300, seed, by=by)
        low, high = calibration_interval(confidence, right, seed=seed)
        assert 0 <= low <= calibration_error(bins(confidence, right)) <= high <= 1
        inside.append(low <= by <= high)
    assert np.mean(inside) >= 0.93


def test_the_interval_is_the_same_each_time_and_narrower_with_more_images():
    few, many = (calibration_interval(*simulated(n, 0, by=0.2), seed=1) for n in (100, 3000))
    assert few == calibration_interval(*simulated(100, 0, by=0.2), seed=1)
    assert many[1] - many[0] < few[1] - few[0]


def test_answered_shares_equal_a_slow_rewrite():
    confidence, right = simulated(37, 5)
    for each in answered(confidence, right, (0.05, 0.3, 0.5, 1.0)):
        ranked = sorted(range(37), key=lambda i: -confidence[i])
        count = max(1, -(-round(each.share * 37 * 1e6) // 10**6))
        assert each.n == count
        assert each.accuracy == pytest.approx(np.mean([right[i] for i in ranked[:count]]))
        assert each.threshold == confidence[ranked[count - 1]]
        assert (confidence >= each.threshold).sum() == count


def test_answers_of_equal_confidence_count_in_equal_parts():
    confidence = np.array([0.9, 0.5, 0.5, 0.5, 0.5])
    half, whole = answered(confidence, np.array([True, True, False, False, False]), (0.4, 1.0))
    assert half.accuracy == pytest.approx((1 + 0.25) / 2)
    assert whole.accuracy == pytest.approx(0.4)
