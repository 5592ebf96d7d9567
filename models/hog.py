"""Histograms of oriented gradients (Dalal and Triggs, CVPR 2005): features that need no training.

Every pixel votes for the direction of its gradient, without sign, with the length of the gradient as its
weight. Each cell of c x c px has a histogram of n bins, each 180 / n degrees wide. Blocks of b x b cells
overlap. Each block's vector is scaled to length 1, clipped at 0.2 and scaled to length 1 again (L2-Hys). The
descriptor is the concatenation of all blocks.

Results equal those of scikit-image's `hog`. The gradient is (-1, 0, 1), and 0 on the border. It is taken from
the channel in which it is longest. A pixel votes for one bin and one cell. The paper instead spreads votes
over neighbouring bins and cells.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from data.errors import ConfigError
from models.configs.hog import HOG

_EPS = 1e-5
_CLIP = 0.2
_LARGEST = 255  # largest difference of two pixels


def dim(config: HOG, image_size: int) -> int:
    """D, the length of a descriptor: (cells per side - b + 1)^2 blocks of b^2 n values.

    Args:
        config: cells, blocks and bins.
        image_size: S, side of the images, px. Pixels beyond the last whole cell are ignored.

    Raises:
        ConfigError: not even one block fits.
    """
    blocks = image_size // config.cell - config.block + 1
    if blocks < 1:
        raise ConfigError(
            f"pretext.cell {config.cell} and pretext.block {config.block}: "
            f"a block is {config.cell * config.block} px wide, images are {image_size} px; "
            "choose smaller cells or blocks, or a larger data.image_size"
        )
    return blocks**2 * config.block**2 * config.orientations


def descriptor(images: Tensor, config: HOG) -> Tensor:
    """Compute the descriptors of a batch.

    Args:
        images: (B, S, S, C) uint8.
        config: cells, blocks and bins.

    Returns:
        (B, D) float32 on the device of the images: the blocks row by row, in each its cells, in each the
        bins.

    Raises:
        ConfigError: not even one block fits.
    """
    B, S = images.shape[:2]
    D, n, c, b = dim(config, S), config.orientations, config.cell, config.block
    x = images.to(torch.int32)
    down, right = torch.zeros_like(x), torch.zeros_like(x)
    down[:, 1:-1] = x[:, 2:] - x[:, :-2]
    right[:, :, 1:-1] = x[:, :, 2:] - x[:, :, :-2]
    # Take the channel with the longest gradient, and of equal ones the first. argmax alone promises no order,
    # so the channel number breaks ties.
    C = x.shape[3]
    order = torch.arange(C - 1, -1, -1, device=x.device)
    channel = ((down**2 + right**2) * C + order).argmax(dim=3, keepdim=True)
    down, right = (g.gather(3, channel).squeeze(3) for g in (down, right))

    cells = S // c
    side = cells * c
    bins = _bins(n).to(x.device)[down + _LARGEST, right + _LARGEST][:, :side, :side]
    length = (down**2 + right**2)[:, :side, :side].float().sqrt()
    row = torch.arange(side, device=x.device) // c
    place = (row[:, None] * cells + row) * n + bins
    histogram = torch.zeros(B, cells**2 * n, device=x.device)
    histogram.scatter_add_(1, place.flatten(1), length.flatten(1))

    grid = histogram.view(B, cells, cells, n) / c**2
    blocks = grid.unfold(1, b, 1).unfold(2, b, 1)  # (B, blocks, blocks, n, b, b)
    v = blocks.permute(0, 1, 2, 4, 5, 3).flatten(3)
    v = _unit(_unit(v).clamp(max=_CLIP))
    return v.reshape(B, D)


def _unit(v: Tensor) -> Tensor:
    return v / (v.square().sum(dim=-1, keepdim=True) + _EPS**2).sqrt()


@lru_cache
def _bins(orientations: int) -> Tensor:
    """(511, 511) int64 table: the bin of every possible gradient (down, right), both counted from -255.

    A table is exact even for an angle on the border between two bins. Comparing angles per pixel is not.
    """
    parts = np.arange(-_LARGEST, _LARGEST + 1, dtype=np.float64)
    degrees = np.rad2deg(np.arctan2(parts[:, None], parts)) % 180
    upper = 180 / orientations * np.arange(1, orientations)
    return torch.from_numpy(np.searchsorted(upper, degrees, side="right"))
