"""The part of the labelled training images by which a probe chooses its settings."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from data import draws


def held_back(labels: NDArray[np.int64], share: float, seed: int, probe: str) -> NDArray[np.bool_]:
    """Draw a share of each class at random, rounded down. So a small class may give no image.

    Args:
        labels: (N,) class of each training image.
        share: of each class, 0 to 1.
        seed: of the draw.
        probe: name of the probe that asks. Two probes draw different images.

    Returns:
        (N,) bool, True for the images that are held back.
    """
    order = draws.permutation(draws.key(seed, probe, "validation"), len(labels))
    held = np.zeros(len(labels), bool)
    for c in np.unique(labels):
        members = order[labels[order] == c]
        held[members[: int(len(members) * share)]] = True
    return held
