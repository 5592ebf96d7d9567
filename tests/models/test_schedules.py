"""The learning-rate schedule in closed form."""

from __future__ import annotations

import math

import pytest

from models.schedules import warmup_cosine


def test_linear_then_cosine() -> None:
    rates = [warmup_cosine(step, 110, 10 / 110) for step in range(110)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert rates[10:] == pytest.approx([math.cos(math.pi * i / 200) ** 2 for i in range(100)])


def test_middle_of_the_cosine_is_half_and_the_rest_is_symmetric() -> None:
    assert warmup_cosine(60, 110, 10 / 110) == pytest.approx(0.5)
    for i in range(1, 50):
        assert warmup_cosine(60 - i, 110, 10 / 110) + warmup_cosine(60 + i, 110, 10 / 110) == pytest.approx(1)


@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.5, 0.99])
@pytest.mark.parametrize("steps", [1, 2, 7, 300])
def test_peak_is_reached_and_no_step_is_wasted(steps: int, warmup: float) -> None:
    rates = [warmup_cosine(step, steps, warmup) for step in range(steps)]
    assert max(rates) == 1
    assert min(rates) > 0


def test_without_warmup_it_starts_at_the_peak_and_only_falls() -> None:
    rates = [warmup_cosine(step, 50, 0) for step in range(50)]
    assert rates[0] == 1
    assert rates == sorted(rates, reverse=True)
