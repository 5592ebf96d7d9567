"""Quality of segmentation masks: intersection over union of each class, as PASCAL VOC defines it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from data.voc import VOID


class Confusion:
    """Counts of pixels by true class and found class.

    Args:
        classes: C, the background included.
    """

    def __init__(self, classes: int) -> None:
        self.counts = np.zeros((classes, classes), np.int64)

    def add(self, found: NDArray[np.integer], truth: NDArray[np.integer]) -> None:
        """Add the pixels of an image, both (H, W), 0 to C - 1. Pixels whose truth is `VOID` don't count."""
        known = truth != VOID
        C = len(self.counts)
        self.counts += np.bincount(C * truth[known].astype(np.int64) + found[known], minlength=C * C).reshape(
            C, C
        )

    def overlaps(self) -> NDArray[np.float64]:
        """(C,) intersection over union, nan for a class that is neither in the truth nor found."""
        inside = np.diag(self.counts).astype(np.float64)
        union = self.counts.sum(0) + self.counts.sum(1) - inside
        found: NDArray[np.float64] = np.divide(
            inside, union, out=np.full(len(inside), np.nan), where=union > 0
        )
        return found

    def accuracy(self) -> float:
        """Share of the pixels with known class that are right."""
        return float(np.trace(self.counts) / max(1, self.counts.sum()))
