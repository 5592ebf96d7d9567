"""Vision transformers (Dosovitskiy et al., arXiv 2010.11929), in the sizes tiny and small.

The sizes are those of DeiT (arXiv 2012.12877) and DINO.

The side of a patch depends on the images. It is the largest of 2, 4, 8, 16 px with at least 8 patches per
side: 4 at 32 px, 8 at 64 and 96 px, 16 from 128 px up. Layers are maps (B, C, h, w) of the patches, like
those of other backbones. `patches` includes the positions. layer1 to layer4 have a quarter of the blocks
each, and layer4 ends with the final norm.

Departures from DINO: there is no class token, because later stages read the mean
over the places of the last map. There is no stochastic depth. As in DINO, positions are interpolated for
images of other sizes, so small crops can be used. Pixels beyond the last whole patch are ignored.

Symbols: B images, C channels, h x w patches, n = h w.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.backbones.backbone import Backbone

DEPTH = 12
HEAD = 64
"""Channels per attention head. The width of a network is a multiple of it."""
_STAGES = 4
_PATCHES = 8
_SIDES = (2, 4, 8, 16)


def _vit(image_size: int, width: float, in_channels: int, *, heads: int) -> Backbone:
    """Layers `patches`, layer1 to layer4: 64 features times `heads` times `width`. From 8 px up.

    The width is rounded to whole heads.
    """
    patch = max([side for side in _SIDES if side * _PATCHES <= image_size], default=_SIDES[0])
    heads = max(1, round(heads * width))
    C = HEAD * heads
    stages: dict[str, nn.Module] = {"patches": Patches(in_channels, C, patch, max(1, image_size // patch))}
    for number in range(1, _STAGES + 1):
        blocks = [Block(C, heads) for _ in range(DEPTH // _STAGES)]
        stages[f"layer{number}"] = Blocks(blocks, _norm(C) if number == _STAGES else nn.Identity())
    return Backbone(stages, dict.fromkeys(stages, C))


vit_tiny = partial(_vit, heads=3)
vit_small = partial(_vit, heads=6)


class Patches(nn.Module):
    """A linear map of every patch, and a learned position.

    Args:
        inputs: channels of the images.
        channels: C.
        patch: side of a patch, px.
        grid: number of patches per side that have a learned position.
    """

    def __init__(self, inputs: int, channels: int, patch: int, grid: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(inputs, channels, patch, patch)
        self.positions = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, channels, grid, grid), std=0.02))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, S, S) -> (B, C, h, w)."""
        x = self.embed(x)
        positions: Tensor = self.positions
        if positions.shape[2:] != x.shape[2:]:
            positions = F.interpolate(positions, size=x.shape[2:], mode="bicubic", antialias=True)
        return x + positions


class Blocks(nn.Module):
    """Transformer blocks on the places of a map, as a sequence."""

    def __init__(self, blocks: list[Block], norm: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> the same shape."""
        y: Tensor = self.norm(self.blocks(x.flatten(2).transpose(1, 2)))
        return y.transpose(1, 2).reshape(x.shape)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)). The MLP is four times as wide inside.

    Args:
        channels: C.
        heads: number of attention heads.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = _norm(channels)
        self.qkv = _linear(channels, 3 * channels)
        self.project = _linear(channels, channels)
        self.norm2 = _norm(channels)
        self.mlp = nn.Sequential(_linear(channels, 4 * channels), nn.GELU(), _linear(4 * channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, n, C) -> the same shape."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.project(mixed)
        y: Tensor = x + self.mlp(self.norm2(x))
        return y


def _norm(channels: int) -> nn.LayerNorm:
    return nn.LayerNorm(channels, eps=1e-6)


def _linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.trunc_normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
    return layer
