"""A plain convolutional net of our own that trains in minutes on a laptop's CPU, from 8 px up."""

from __future__ import annotations

from torch import nn

from models.backbones.backbone import Backbone, scaled

_BASE = (32, 64, 128, 256)
_LEAST_SIDE = 4  # px of the last map: below that its 3 x 3 kernels see mostly padding


def smallconv(image_size: int, width: float, in_channels: int) -> Backbone:
    """conv1 to conv4 of 32, 64, 128, 256 channels times `width`: 3 x 3 convolution, batch norm, ReLU; from 8 px up.

    A max-pool halves the side between blocks while 4 px remain; from 24 px on conv1 has stride 2.
    16 px: 16, 8, 4, 4. 32 px: 16, 8, 4, 4. 96 px: 48, 24, 12, 6.
    """
    stride = 2 if image_size >= 24 else 1
    side, previous = -(-image_size // stride), in_channels
    stages, widths = {}, {}
    for number, base in enumerate(_BASE, start=1):
        outputs = scaled(base, width)
        modules: list[nn.Module] = []
        if number > 1 and side // 2 >= _LEAST_SIDE:
            modules.append(nn.MaxPool2d(2))
            side //= 2
        convolution = nn.Conv2d(previous, outputs, 3, stride if number == 1 else 1, padding=1, bias=False)
        nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
        stages[f"conv{number}"] = nn.Sequential(*modules, convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))
        widths[f"conv{number}"] = previous = outputs
    return Backbone(stages, widths)
