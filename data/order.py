"""Which images make up a batch: functions of (key, epoch, step), with no state that a resume would need.

Each order gives positions into the `index` it was made with, for looking up labels or clusters that are kept beside it.
What is cached between calls is recomputed when missing.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from data import draws

Positions = NDArray[np.int64]


class Order(Protocol):
    """What the orders below have in common."""

    @property
    def steps_per_epoch(self) -> int:
        """Batches an epoch, at least 1."""

    def batch(self, epoch: int, step: int, key: int) -> Positions:
        """(B,) int64 positions into the index; `step` counts within the epoch, from 0."""


class Shuffled:
    """Every image once an epoch, shuffled anew each time.

    With fewer images than `batch_size`, an epoch is one batch of all of them, also under `drop_last`.

    Args:
        index: (N,) int64, each image once; an image's place in an epoch is drawn by it.
        batch_size: images a step.
        drop_last: leave out the images that don't fill the last batch (others each epoch).

    Raises:
        ValueError: no images, or a batch size below 1.
    """

    def __init__(self, index: NDArray[np.int64], batch_size: int, drop_last: bool = True) -> None:
        _check(index, batch_size)
        self._index = index
        self._batch_size = min(batch_size, len(index))
        full, rest = divmod(len(index), self._batch_size)
        self._steps = full + bool(rest and not drop_last)
        self._cached: tuple[tuple[int, int], Positions] | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Batches an epoch."""
        return self._steps

    def batch(self, epoch: int, step: int, key: int) -> Positions:
        """(B,) int64 positions."""
        _check_step(step, self._steps)
        if self._cached is None or self._cached[0] != (epoch, key):
            drawn = draws.bits(draws.key(key, "shuffled", epoch), self._index, 1)[:, 0]
            self._cached = ((epoch, key), np.argsort(drawn, kind="stable"))
        return self._cached[1][step * self._batch_size : (step + 1) * self._batch_size]


class UniformOverClusters:
    """Every non-empty cluster equally likely, then every image of it (DeepCluster, arXiv 1807.05520, section 3.3).

    Draws are independent and with replacement; an epoch is as many draws as there are images, in whole batches.

    Args:
        index: (N,) int64 images.
        cluster: (N,) integers, the cluster of each.
        batch_size: images a step.

    Raises:
        ValueError: no images, another number of clusters than of images, or a batch size below 1.
    """

    def __init__(self, index: NDArray[np.int64], cluster: NDArray[np.integer], batch_size: int) -> None:
        _check(index, batch_size)
        if len(cluster) != len(index):
            raise ValueError(f"UniformOverClusters: {len(index)} images, but clusters of {len(cluster)}")
        self._batch_size = batch_size
        self._steps = max(1, len(index) // batch_size)
        self._members: Positions = np.argsort(cluster, kind="stable")
        _, self._start, self._size = np.unique(cluster[self._members], return_index=True, return_counts=True)

    @property
    def steps_per_epoch(self) -> int:
        """Batches an epoch."""
        return self._steps

    def batch(self, epoch: int, step: int, key: int) -> Positions:
        """(B,) int64 positions."""
        _check_step(step, self._steps)
        place = np.arange(step * self._batch_size, (step + 1) * self._batch_size, dtype=np.int64)
        u = draws.uniform(draws.key(key, "clusters", epoch), place, 2)
        chosen = (u[:, 0] * len(self._size)).astype(np.int64)
        member = (u[:, 1] * self._size[chosen]).astype(np.int64)
        positions: Positions = self._members[self._start[chosen] + member]
        return positions


class Repeated:
    """Pass after pass over few images, each shuffled anew, for a number of steps that is one epoch.

    A batch may run over into the next pass, and hold an image several times where it is larger than a pass.

    Args:
        index: (N,) int64 images.
        batch_size: images a step, also above N.
        steps: batches an epoch.

    Raises:
        ValueError: no images, or a batch size or steps below 1.
    """

    def __init__(self, index: NDArray[np.int64], batch_size: int, steps: int) -> None:
        _check(index, batch_size)
        if steps < 1:
            raise ValueError(f"Repeated: {steps} steps")
        self._index = index
        self._batch_size = batch_size
        self._steps = steps
        self._cached: tuple[tuple[int, int, int, int], Positions] | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Batches an epoch."""
        return self._steps

    def batch(self, epoch: int, step: int, key: int) -> Positions:
        """(B,) int64 positions."""
        _check_step(step, self._steps)
        start, stop = step * self._batch_size, (step + 1) * self._batch_size
        first, last = start // len(self._index), (stop - 1) // len(self._index)
        if self._cached is None or self._cached[0] != (epoch, key, first, last):
            passes = np.arange(first, last + 1, dtype=np.int64)
            drawn = draws.bits(draws.key(key, "repeated", epoch), passes, len(self._index))
            self._cached = ((epoch, key, first, last), np.argsort(drawn, axis=1, kind="stable").ravel())
        offset = first * len(self._index)
        return self._cached[1][start - offset : stop - offset]


def _check(index: NDArray[np.int64], batch_size: int) -> None:
    if len(index) == 0:
        raise ValueError("an order of no images: check that the split is not empty")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, but a batch needs at least 1 image")


def _check_step(step: int, steps: int) -> None:
    if not 0 <= step < steps:
        raise IndexError(f"step {step} of an epoch of {steps} steps")
