"""Schedules in closed form, and against torch's own."""

from __future__ import annotations

import math

import pytest
import torch

from models.schedules import SCHEDULES, between, cosine, warmup_constant, warmup_cosine, warmup_linear


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


def of_torch(make, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_after_the_warmup_each_goes_as_torchs() -> None:
    steps, rising = 110, 10
    schedulers = torch.optim.lr_scheduler
    expected = {
        "cosine": of_torch(lambda o: schedulers.CosineAnnealingLR(o, steps - rising), steps - rising),
        "linear": of_torch(lambda o: schedulers.LinearLR(o, 1.0, 0.0, steps - rising), steps - rising),
        "constant": of_torch(lambda o: schedulers.ConstantLR(o, 1.0), steps - rising),
    }
    assert expected.keys() == SCHEDULES.keys()
    for name, schedule in SCHEDULES.items():
        rates = [schedule(step, steps, rising / steps) for step in range(steps)]
        assert rates[:rising] == pytest.approx([(i + 1) / rising for i in range(rising)])
        assert rates[rising:] == pytest.approx(expected[name], abs=1e-9)


@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.5, 0.99])
@pytest.mark.parametrize("steps", [1, 2, 7, 300])
@pytest.mark.parametrize("schedule", [warmup_linear, warmup_constant])
def test_no_schedule_wastes_a_step(schedule, steps: int, warmup: float) -> None:
    rates = [schedule(step, steps, warmup) for step in range(steps)]
    assert max(rates) == 1
    assert min(rates) > 0


def test_half_a_cosine() -> None:
    assert [cosine(share) for share in (0, 1 / 3, 0.5, 2 / 3, 1)] == pytest.approx([1, 0.75, 0.5, 0.25, 0])


def test_between_is_byols_momentum() -> None:
    base, steps = 0.996, 50
    for k in range(steps + 1):
        tau = 1 - (1 - base) * (math.cos(math.pi * k / steps) + 1) / 2
        assert between(k, steps, base, 1.0) == pytest.approx(tau, abs=1e-12)
    assert between(0, steps, 0.9, 0.2) == pytest.approx(0.9)
    assert between(steps, steps, 0.9, 0.2) == pytest.approx(0.2)
    assert all(between(k, steps, 0.99, 0.99) == 0.99 for k in range(steps))
