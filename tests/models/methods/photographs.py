"""Crops of scikit-learn's two photographs, for methods that need colour, orientation or context."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor


@lru_cache
def photographs(n: int, size: int = 32, seed: int = 0) -> Tensor:
    """Crop random squares of at least 64 px, half of them from each photograph; (n, S, S, 3) uint8."""
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(seed)
    crops = []
    for number in range(n):
        photograph = load_sample_images().images[number % 2]
        h, w = photograph.shape[:2]
        side = int(rng.integers(64, 257))
        top, left = int(rng.integers(h - side + 1)), int(rng.integers(w - side + 1))
        square = torch.from_numpy(photograph[top : top + side, left : left + side].copy()).permute(2, 0, 1)[
            None
        ]
        small = torch.nn.functional.interpolate(square.float(), size=size, mode="bilinear", antialias=True)
        crops.append(small[0].permute(1, 2, 0).round().clamp(0, 255).byte())
    return torch.stack(crops)
