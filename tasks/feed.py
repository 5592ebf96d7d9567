"""Batches for a training stage: the images, their order and their targets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data.draws import key
from data.images import Images
from data.order import Order
from models.method import Batch
from tasks.job import Job


class ImageFeed:
    """Batches of images in a given order, with their targets.

    Args:
        images: gives pixels by manifest index.
        order: gives the positions of each batch, as a function of (key, epoch, step).
        index: (N,) int64 manifest index of each position.
        target: (N,) int64 classes, (N, C) float32 probabilities, or None.
        order_key: key of the random order.
    """

    def __init__(
        self,
        images: Images,
        order: Order,
        index: NDArray[np.int64],
        target: NDArray[Any] | None,
        order_key: int,
    ) -> None:
        self.images, self.order, self.index, self.target, self.key = images, order, index, target, order_key
        self.steps_per_epoch = order.steps_per_epoch

    def batch(self, epoch: int, step: int) -> Batch:
        """The batch of one step of an epoch, as CPU tensors."""
        position = self.order.batch(epoch, step, self.key)
        index = self.index[position]
        target = None if self.target is None else torch.from_numpy(self.target[position])
        return Batch(
            images=torch.from_numpy(self.images.read(index)), index=torch.from_numpy(index), target=target
        )

    def sweep(self, batch_size: int = 512) -> Iterator[Batch]:
        """Yield all images once, in order of position."""
        for start in range(0, len(self.index), batch_size):
            index = self.index[start : start + batch_size]
            yield Batch(images=torch.from_numpy(self.images.read(index)), index=torch.from_numpy(index))


def order_key(job: Job, stage: str) -> int:
    """The key of the random order of batches."""
    return key(job.seed, stage, "order")
