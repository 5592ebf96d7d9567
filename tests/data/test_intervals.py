"""Intervals of means, against closed forms and SciPy. Wilson's and Newcombe's are in the report's tests."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest

from data.intervals import mean_interval, normal_interval, wilson


def test_the_interval_of_one_share_is_wilson_s() -> None:
    assert mean_interval([0.3], [50]) == pytest.approx(wilson(0.3, 50))


def test_equal_shares_narrow_by_the_root_of_their_number() -> None:
    low, high = wilson(0.9, 40)
    narrow = mean_interval([0.9] * 4, [40] * 4)
    assert narrow == pytest.approx((0.9 - (0.9 - low) / sqrt(4), 0.9 + (high - 0.9) / sqrt(4)))


def test_it_has_a_width_where_everything_is_right() -> None:
    low, high = mean_interval([1.0, 1.0], [10, 10])
    assert high == 1.0
    assert 0.7 < low < 1.0


def test_it_contains_the_true_mean_of_recalls_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    truth, counts = np.array([0.95, 0.7, 0.5, 0.99]), [30, 50, 20, 80]
    drawn = random.binomial(counts, truth, (2000, 4)) / counts
    inside = [low <= truth.mean() <= high for low, high in (mean_interval(p.tolist(), counts) for p in drawn)]
    assert 0.93 < np.mean(inside) < 0.98


def test_the_interval_of_a_mean_is_scipy_s() -> None:
    from scipy import stats

    values = np.random.default_rng(0).exponential(size=200)
    expected = stats.norm.interval(0.95, values.mean(), stats.sem(values))
    assert normal_interval(values.tolist()) == pytest.approx(expected)
