"""Learning-rate schedules: pure functions of the step, as multiples of the peak rate."""

from __future__ import annotations

import math


def warmup_cosine(step: int, steps: int, warmup: float) -> float:
    """Linear warm-up, then half a cosine to 0 (SimCLR, arXiv 2002.05709, B.6; no restarts).

    With W = round(warmup * steps), t = step and T = steps:
    (t + 1) / W for t < W, else (1 + cos(pi (t - W) / (T - W))) / 2.
    No step is wasted at rate 0: the first one has 1 / W, the last one comes just before the cosine ends.

    Args:
        step: 0 to steps - 1, over the whole training.
        steps: length of the training.
        warmup: share of the steps that warm up, 0 to below 1.

    Returns:
        What to multiply the peak rate by, in (0, 1].
    """
    rising = round(warmup * steps)
    if step < rising:
        return (step + 1) / rising
    return (1 + math.cos(math.pi * (step - rising) / (steps - rising))) / 2
