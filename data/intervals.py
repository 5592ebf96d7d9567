"""How sure a score is: intervals for one proportion, for the difference of two, and for a mean over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from statistics import fmean, stdev

Z95 = 1.959963984540054
"""Two-sided 95 % quantile of the standard normal."""


def wilson(p: float, n: int, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval (1927) for a proportion p in [0, 1] seen in n >= 1 trials -> (low, high) in [0, 1].

    Unlike p ± z·√(p(1-p)/n) it neither leaves [0, 1] nor shrinks to nothing at 0 and 1.
    """
    centre = p + z * z / (2 * n)
    half = z * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # Exact at the ends, where rounding would leave 1e-17 outside.
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def difference(
    p: float, p_interval: tuple[float, float], q: float, q_interval: tuple[float, float]
) -> tuple[float, float]:
    """Interval of p - q from the interval of each (Zou and Donner 2008), of the same level -> (low, high).

    From Wilson's intervals it is Newcombe's hybrid score interval (1998, method 10). For independent estimates: two models
    scored on the same images mostly fail on the same ones, so that the interval of their difference is, if anything,
    narrower than this.
    """
    (p_low, p_high), (q_low, q_high) = p_interval, q_interval
    low = p - q - sqrt((p - p_low) ** 2 + (q_high - q) ** 2)
    high = p - q + sqrt((p_high - p) ** 2 + (q - q_low) ** 2)
    return low, high


def paired(differences: Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    """Mean of n >= 2 paired differences with Student's t interval (n - 1 degrees of freedom) -> (mean, low, high).

    Raises:
        ValueError: fewer than two.
    """
    from scipy.special import stdtrit  # here, since it takes longer to import than the command line may

    n = len(differences)
    if n < 2:
        raise ValueError(f"an interval of a mean needs two values or more, got {n}")
    mean = fmean(differences)
    half = float(stdtrit(n - 1, (1 + level) / 2)) * stdev(differences) / sqrt(n)
    return mean, mean - half, mean + half


def paired_shares(first_only: int, second_only: int, n: int, z: float = Z95) -> tuple[float, float, float]:
    """Difference p - q of two shares of the same n >= 1 trials (Agresti and Min 2005) -> (difference, low, high).

    The difference is the plain one; the interval is Wald's after half a trial was added to each of the four outcomes, which
    keeps its promise from small n on.

    Args:
        first_only: trials in which the first alone is right.
        second_only: trials in which the second alone is.
        n: all trials.
        z: quantile of the standard normal.
    """
    a, b, m = first_only + 0.5, second_only + 0.5, n + 2
    centre, half = (a - b) / m, z * sqrt((a + b) - (a - b) ** 2 / m) / m
    return (first_only - second_only) / n, max(-1.0, centre - half), min(1.0, centre + half)
