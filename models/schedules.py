"""Learning-rate schedules: pure functions of the step, as multiples of the peak rate."""

from __future__ import annotations

import math
from collections.abc import Callable


def warmup_cosine(step: int, steps: int, warmup: float) -> float:
    """Linear warm-up, then half a cosine to 0 (SimCLR, arXiv 2002.05709, B.6; no restarts).

    With W = round(warmup * steps), t = step and T = steps:
    (t + 1) / W for t < W, else (1 + cos(pi (t - W) / (T - W))) / 2.
    No step has rate 0: the first one has 1 / W, the last one comes just before the cosine ends.

    Args:
        step: 0 to steps - 1, over the whole training.
        steps: length of the training.
        warmup: share of the steps that warm up, 0 to below 1.

    Returns:
        Factor on the peak rate, in (0, 1].
    """
    rising = round(warmup * steps)
    return (step + 1) / rising if step < rising else cosine((step - rising) / (steps - rising))


def warmup_linear(step: int, steps: int, warmup: float) -> float:
    """Linear warm-up as in `warmup_cosine`, then a line to 0: 1 - (t - W) / (T - W) (S2-BNN's Adam)."""
    rising = round(warmup * steps)
    return (step + 1) / rising if step < rising else 1 - (step - rising) / (steps - rising)


def warmup_constant(step: int, steps: int, warmup: float) -> float:
    """Linear warm-up as in `warmup_cosine`, then 1."""
    rising = round(warmup * steps)
    return (step + 1) / rising if step < rising else 1.0


def cosine(share: float) -> float:
    """(1 + cos(pi share)) / 2: from 1 at share 0 to 0 at share 1."""
    return (1 + math.cos(math.pi * share)) / 2


def between(step: int, steps: int, first: float, last: float) -> float:
    """Half a cosine from `first` to `last`: last - (last - first) cosine(step / steps) (BYOL, sec. 3.3)."""
    return last - (last - first) * cosine(step / steps)


SCHEDULES: dict[str, Callable[..., float]] = {
    "cosine": warmup_cosine,
    "linear": warmup_linear,
    "constant": warmup_constant,
}
"""Value of `schedule` -> function (step, steps, warmup) that returns a factor on the peak rate."""
