"""Orders: which images make up a batch.

A batch is a function of (key, epoch, step), so resuming a training needs no saved state. What an order caches
between calls, it can recompute. Batches are positions in the `index` that the order was made with. The same
positions look up labels or clusters in arrays that run parallel to `index`.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from data import draws

Positions = NDArray[np.int64]


class Order(Protocol):
    """The interface of all orders."""

    @property
    def steps_per_epoch(self) -> int:
        """Batches per epoch, at least 1."""

    def batch(self, epoch: int, step: int, key: int) -> Positions:
        """The (B,) int64 positions of one batch. `step` counts from 0 within the epoch."""


class Shuffled:
    """Every image once per epoch, in a new random order each epoch.

    With fewer images than `batch_size`, an epoch is one batch of all images, even with `drop_last`.

    Args:
        index: (N,) int64, each image once. The random order is drawn from these numbers.
        batch_size: images per step.
        drop_last: leave out the images that do not fill the last batch; they are different ones each epoch.
        steps: batches per epoch, if it is to end before all images were seen; None: all that there are.

    Raises:
        ValueError: there are no images, or the batch size is below 1.
    """

    def __init__(
        self, index: NDArray[np.int64], batch_size: int, drop_last: bool = True, steps: int | None = None
    ) -> None:
        _check(index, batch_size)
        self._index = index
        self._batch_size = min(batch_size, len(index))
        full, rest = divmod(len(index), self._batch_size)
        whole = full + bool(rest and not drop_last)
        self._steps = whole if steps is None else min(steps, whole)
        self._cached: tuple[tuple[int, int], Positions] | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Batches per epoch."""
        return self._steps

    def batch(self, epoch: int, step: int, key: int) -> Positions:
        """The (B,) int64 positions of one batch."""
        _check_step(step, self._steps)
        if self._cached is None or self._cached[0] != (epoch, key):
            drawn = draws.bits(draws.key(key, "shuffled", epoch), self._index, 1)[:, 0]
            self._cached = ((epoch, key), np.argsort(drawn, kind="stable"))
        return self._cached[1][step * self._batch_size : (step + 1) * self._batch_size]


class UniformOverClusters:
    """Draw a cluster, then an image of it (DeepCluster, arXiv 1807.05520, section 3.3).

    All non-empty clusters are equally likely, and so are all images of the chosen cluster. Images are drawn
    independently and with replacement. An epoch has as many draws as there are images, rounded down to whole
    batches, unless `steps` says how many batches.

    Args:
        index: (N,) int64, the images.
        cluster: (N,) integers, the cluster of each image.
        batch_size: images per step.
        steps: batches per epoch; None: see above.

    Raises:
        ValueError: there are no images, `cluster` and `index` differ in length, or the batch size is below 1.
    """

    def __init__(
        self,
        index: NDArray[np.int64],
        cluster: NDArray[np.integer],
        batch_size: int,
        steps: int | None = None,
    ) -> None:
        _check(index, batch_size)
        if len(cluster) != len(index):
            raise ValueError(f"UniformOverClusters: {len(index)} images, but clusters for {len(cluster)}")
        self._batch_size = batch_size
        self._steps = steps or max(1, len(index) // batch_size)
        self._members: Positions = np.argsort(cluster, kind="stable")
        _, self._start, self._size = np.unique(cluster[self._members], return_index=True, return_counts=True)

    @property
    def steps_per_epoch(self) -> int:
        """Batches per epoch."""
        return self._steps

    def batch(self, epoch: int, step: int, key: int) -> Positions:
        """The (B,) int64 positions of one batch."""
        _check_step(step, self._steps)
        place = np.arange(step * self._batch_size, (step + 1) * self._batch_size, dtype=np.int64)
        u = draws.uniform(draws.key(key, "clusters", epoch), place, 2)
        chosen = (u[:, 0] * len(self._size)).astype(np.int64)
        member = (u[:, 1] * self._size[chosen]).astype(np.int64)
        positions: Positions = self._members[self._start[chosen] + member]
        return positions


class Repeated:
    """Many passes over a few images, each in a new random order. An epoch is a given number of steps.

    A batch may continue into the next pass. If it is larger than a pass, it holds an image several times.

    Args:
        index: (N,) int64, the images.
        batch_size: images per step; may be above N.
        steps: batches per epoch.

    Raises:
        ValueError: there are no images, or the batch size or the number of steps is below 1.
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
        """Batches per epoch."""
        return self._steps

    def batch(self, epoch: int, step: int, key: int) -> Positions:
        """The (B,) int64 positions of one batch."""
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
        raise ValueError("an order needs images, but there are no images; check that the split is not empty")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, but a batch needs at least 1 image")


def _check_step(step: int, steps: int) -> None:
    if not 0 <= step < steps:
        raise IndexError(f"step {step} of an epoch of {steps} steps")
