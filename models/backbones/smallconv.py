"""Our own small residual network. It trains in minutes on a laptop's CPU, from 8 px up.

Its shape suits what such CPUs do fast in bf16. From 24 px up, the first layer works on 2 x 2 pixels at a time
(space to depth). Max-pools halve the sides, because the backward pass of a strided convolution is three times
slower than that of a dense one.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from models.backbones.backbone import SMALL, Backbone, scaled
from models.backbones.resnet import Residual

_BASE = (32, 64, 128, 256)
_LEAST_SIDE = 3  # smallest side of the last map


class SpaceToDepth(nn.Module):
    """Turns 2 x 2 pixels into one with four times the channels. Odd sides are padded with a row of zeros."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, c, h, w) -> (B, 4 c, h / 2, w / 2), rounded up."""
        h, w = x.shape[2:]
        if h % 2 or w % 2:
            x = F.pad(x, (0, w % 2, 0, h % 2))
        return F.pixel_unshuffle(x, 2)


def smallconv(image_size: int, width: float, in_channels: int) -> Backbone:
    """conv1 to conv3, from 64 px up conv4: 32, 64, 128, 256 channels times `width`. From 8 px up.

    Each has a 3 x 3 convolution with batch norm and ReLU. From conv2 on, a residual block follows, and a
    max-pool comes first if at least 3 px remain. Sides: 16, 8, 4 for 16 px; 16, 8, 4 for 32 px; 48, 24, 12, 6
    for 96 px.
    """
    stages: dict[str, nn.Module] = {}
    widths: dict[str, int] = {}
    side, inputs = image_size, in_channels
    for number, base in enumerate(_BASE if image_size >= SMALL else _BASE[:3], start=1):
        outputs = scaled(base, width)
        modules: list[nn.Module] = []
        if number == 1 and image_size >= 24:
            modules.append(SpaceToDepth())
            side, inputs = -(-side // 2), 4 * inputs
        if number > 1 and side // 2 >= _LEAST_SIDE:
            modules.append(nn.MaxPool2d(2))
            side //= 2
        convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
        modules += [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
        if number > 1:
            modules.append(Residual(outputs, outputs, stride=1, bottleneck=False))
        stages[f"conv{number}"], widths[f"conv{number}"] = nn.Sequential(*modules), outputs
        inputs = outputs
    return Backbone(stages, widths)
