"""Confidence intervals of scores: for one proportion, for a difference of two, and for means."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from statistics import fmean, stdev

Z95 = 1.959963984540054
"""The quantile of the standard normal for two-sided 95 % intervals."""


def wilson(p: float, n: int, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval (1927) for a proportion p in [0, 1] of n >= 1 trials -> (low, high) in [0, 1].

    Unlike p ± z·√(p(1-p)/n), it stays within [0, 1] and keeps a width above zero at p = 0 and p = 1.
    """
    centre = p + z * z / (2 * n)
    half = z * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # Without max and min, rounding could put an end 1e-17 outside [0, 1].
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def mean_interval(shares: Sequence[float], counts: Sequence[int]) -> tuple[float, float]:
    """Interval of the plain mean of k >= 1 independent shares, such as recalls (Zou and Donner 2008).

    Args:
        shares: each in [0, 1].
        counts: the number of trials behind each, at least 1.

    Returns:
        (low, high) in [0, 1], from Wilson's interval of each share.
    """
    k, mean = len(shares), fmean(shares)
    ends = [(p, *wilson(p, n)) for p, n in zip(shares, counts, strict=True)]
    below = sqrt(sum((p - low) ** 2 for p, low, _ in ends)) / k
    above = sqrt(sum((high - p) ** 2 for p, _, high in ends)) / k
    return max(0.0, mean - below), min(1.0, mean + above)


def normal_interval(values: Sequence[float], z: float = Z95) -> tuple[float, float]:
    """Interval of the mean of n >= 2 values by the normal distribution -> (low, high)."""
    half = z * stdev(values) / sqrt(len(values))
    return fmean(values) - half, fmean(values) + half


def difference_interval(
    p: float, p_interval: tuple[float, float], q: float, q_interval: tuple[float, float]
) -> tuple[float, float]:
    """Interval of p - q from the intervals of p and q (Zou and Donner 2008) -> (low, high).

    Both intervals must have the same level, which is also the level of the result. From Wilson's intervals,
    this is Newcombe's hybrid score interval (1998, method 10).

    The method assumes independent estimates. Two models that are scored on the same images mostly fail on the
    same ones, so the true interval of their difference is usually narrower than this one.
    """
    (p_low, p_high), (q_low, q_high) = p_interval, q_interval
    low = p - q - sqrt((p - p_low) ** 2 + (q_high - q) ** 2)
    high = p - q + sqrt((p_high - p) ** 2 + (q - q_low) ** 2)
    return low, high


def paired(differences: Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    """Mean and Student's t interval (n - 1 degrees of freedom) of n >= 2 paired differences.

    Returns:
        (mean, low, high).

    Raises:
        ValueError: there are fewer than two differences.
    """
    # Imported here because it would slow down every start of the command line.
    from scipy.special import stdtrit

    n = len(differences)
    if n < 2:
        raise ValueError(f"an interval of a mean needs at least two values, got {n}")
    mean = fmean(differences)
    half = float(stdtrit(n - 1, (1 + level) / 2)) * stdev(differences) / sqrt(n)
    return mean, mean - half, mean + half


def paired_shares(first_only: int, second_only: int, n: int, z: float = Z95) -> tuple[float, float, float]:
    """Interval of the difference p - q of two shares of the same n >= 1 trials (Agresti and Min 2005).

    The difference itself is not adjusted. The interval is Wald's, computed after adding half a trial to each
    of the four outcomes. With that, its coverage is right even for small n.

    Args:
        first_only: number of trials in which only the first is right.
        second_only: number of trials in which only the second is right.
        n: number of all trials.
        z: quantile of the standard normal.

    Returns:
        (difference, low, high).
    """
    a, b, m = first_only + 0.5, second_only + 0.5, n + 2
    centre, half = (a - b) / m, z * sqrt((a + b) - (a - b) ** 2 / m) / m
    return (first_only - second_only) / n, max(-1.0, centre - half), min(1.0, centre + half)
