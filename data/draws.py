"""The project's random numbers. Each is a pure function of (seed, stage, epoch, index).

A draw is one such random number. It belongs to an image, not to a batch or a process, so batching, workers
and resuming can't change it. The generator is counter-based: it applies the SplitMix64 finaliser (Steele, Lea
and Flood 2014) to a 64-bit key and two counters.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_INDEX = np.uint64(0xD1B54A32D192ED03)


def key(seed: int, *names: int | str) -> int:
    """Make a 64-bit key for one purpose. Different names give unrelated streams of draws."""
    text = "\x1f".join([str(seed), *map(str, names)])
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def bits(key: int, index: NDArray[np.int64], n: int) -> NDArray[np.uint64]:
    """(B,) int64 -> (B, n) uint64, uniform over all 64-bit values."""
    with np.errstate(over="ignore"):
        rows = _mix(np.asarray(index).astype(np.uint64) * _INDEX + np.uint64(key))
        return _mix(rows[:, None] + _GOLDEN * np.arange(1, n + 1, dtype=np.uint64)[None])


def uniform(key: int, index: NDArray[np.int64], n: int) -> NDArray[np.float64]:
    """(B,) int64 -> (B, n) float64 in [0, 1)."""
    return (bits(key, index, n) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutation(key: int, n: int) -> NDArray[np.int64]:
    """Draw a permutation of 0..n-1 as (n,) int64. All permutations are equally likely."""
    return np.argsort(bits(key, np.arange(n, dtype=np.int64), 1)[:, 0], kind="stable")


@dataclass(frozen=True)
class Draws:
    """The draws of one batch. `draws.uniform("crop", 4)` is (B, 4), one row per image.

    Attributes:
        seed: the stage's seed.
        stage: a name that separates one training from another.
        epoch: a counter that changes each time an image is seen again; the engine passes its step.
        index: (B,) int64, each image's index in the manifest.
    """

    seed: int
    stage: str
    epoch: int
    index: NDArray[np.int64]

    def uniform(self, name: str, n: int) -> NDArray[np.float64]:
        """(B, n) float64 in [0, 1). Equal (seed, stage, epoch, index, name) always give equal values."""
        return uniform(key(self.seed, self.stage, self.epoch, name), self.index, n)
