"""Decoders from a backbone's last map to grid cells or pixels, and an adversary. Pretraining only."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PlaceClassifier(nn.Module):
    """Logits on a grid finer than the map: bilinear enlargement, two 3 x 3 and one 1 x 1 convolution.

    Args:
        channels: D of the map.
        hidden: channels in between.
        classes: Q.
        grid: g, side of the grid.
    """

    def __init__(self, channels: int, hidden: int, classes: int, grid: int) -> None:
        super().__init__()
        self.grid = grid
        self.body = nn.Sequential(*_convolution(channels, hidden), *_convolution(hidden, hidden))
        self.classes = nn.Conv2d(hidden, classes, 1)
        nn.init.normal_(self.classes.weight, std=0.01)
        assert self.classes.bias is not None
        nn.init.zeros_(self.classes.bias)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, D, h, w) -> (B, Q, g, g)."""
        x = F.interpolate(maps, size=self.grid, mode="bilinear", align_corners=False)
        logits: Tensor = self.classes(self.body(x))
        return logits


class ContextDecoder(nn.Module):
    """The second half of the context encoder (Pathak et al. 2016, section 3.1): from the last map to pixels.

    A channel-wise fully connected layer lets the places of the map exchange information: each channel has its
    own weights, which map its h^2 places to h^2 places. Then a 1 x 1 convolution mixes the channels.
    Transposed convolutions of 4 x 4 px double the side until it reaches the side of the image.

    Args:
        channels: D of the map.
        places: h, side of the map.
        size: s, side of the image, px.
        hidden: channels of the first transposed convolution. Each further one has half as many, at least 32.
    """

    def __init__(self, channels: int, places: int, size: int, hidden: int) -> None:
        super().__init__()
        self.size = size
        self.across = nn.Parameter(torch.empty(channels, places**2, places**2))
        nn.init.normal_(self.across, std=places**-1.0)
        stack = [nn.Conv2d(channels, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU(inplace=True)]
        side = places
        while side < size:
            narrower = max(32, hidden // 2)
            stack += [
                nn.ConvTranspose2d(hidden, narrower, 4, 2, 1, bias=False),
                nn.BatchNorm2d(narrower),
                nn.ReLU(inplace=True),
            ]
            side, hidden = 2 * side, narrower
        self.body = nn.Sequential(*stack, nn.Conv2d(hidden, 3, 3, padding=1))

    def forward(self, maps: Tensor) -> Tensor:
        """(B, D, h, h) -> (B, 3, s, s) float32 in [-1, 1]. A larger map is cropped to its centre."""
        x = torch.einsum("bcp,cpq->bcq", maps.flatten(2), self.across).view_as(maps)
        picture: Tensor = self.body(x).float().tanh()
        start = (picture.shape[-1] - self.size) // 2
        return picture[:, :, start : start + self.size, start : start + self.size]


class Adversary(nn.Module):
    """Judges whether pixels come from an image: 4 x 4 convolutions with stride 2 down to 4 px, as in DCGAN.

    Args:
        size: s, side of the image, px; at least 8.
        hidden: channels of the first layer. Each further layer has twice as many.
    """

    def __init__(self, size: int, hidden: int) -> None:
        super().__init__()
        stack: list[nn.Module] = [nn.Conv2d(3, hidden, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
        side = size // 2
        while side >= 8:
            stack += [
                nn.Conv2d(hidden, 2 * hidden, 4, 2, 1, bias=False),
                nn.BatchNorm2d(2 * hidden),
                nn.LeakyReLU(0.2, inplace=True),
            ]
            side, hidden = side // 2, 2 * hidden
        self.body = nn.Sequential(*stack)
        self.score = nn.Linear(hidden * side**2, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.normal_(module.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, s, s) in [-1, 1] -> (B,) logits; above 0 means that the pixels are from a real image."""
        score: Tensor = self.score(self.body(x).flatten(1))
        return score.squeeze(1)


def _convolution(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    return convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
