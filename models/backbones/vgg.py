"""VGG-16 (Simonyan and Zisserman 2015) with and without batch norm, as in torchvision.

A pool is left out if fewer than 2 px per side would remain. Below 64 px, fc6 and fc7 have 1024 units instead
of 4096. Layer `conv3` is the output of the third block, conv3_3 in the paper.
"""

from __future__ import annotations

from functools import partial

from torch import nn

from models.backbones.backbone import SMALL, Backbone, scaled

_BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def vgg16(image_size: int, width: float, in_channels: int) -> Backbone:
    """Blocks conv1 to conv5 with up to 512 channels times `width`, without batch norm. From 8 px up."""
    return _vgg(image_size, width, in_channels, norm=False)


def vgg16_bn(image_size: int, width: float, in_channels: int) -> Backbone:
    """`vgg16` with batch norm after each convolution."""
    return _vgg(image_size, width, in_channels, norm=True)


def _vgg(image_size: int, width: float, in_channels: int, norm: bool) -> Backbone:
    side, previous = image_size, in_channels
    stages, widths = {}, {}
    for number, block in enumerate(_BLOCKS, start=1):
        modules: list[nn.Module] = []
        if number > 1 and side >= 4:
            modules.append(nn.MaxPool2d(2))
            side //= 2
        for base in block:
            outputs = scaled(base, width)
            modules.append(_initialised(nn.Conv2d(previous, outputs, 3, padding=1)))
            if norm:
                modules.append(nn.BatchNorm2d(outputs))
            modules.append(nn.ReLU(inplace=True))
            previous = outputs
        stages[f"conv{number}"], widths[f"conv{number}"] = nn.Sequential(*modules), previous
    units = scaled(1024 if image_size < SMALL else 4096, width)
    return Backbone(stages, widths, fc=partial(_fully_connected, previous, units, side), fc_dim=units)


def _initialised(convolution: nn.Conv2d) -> nn.Conv2d:
    """Apply He initialisation. With torch's default and no batch norm, the signal fades in sixteen layers."""
    assert convolution.bias is not None
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    nn.init.zeros_(convolution.bias)
    return convolution


def _fully_connected(inputs: int, units: int, side: int) -> dict[str, nn.Module]:
    pool = nn.MaxPool2d(2) if side >= 4 else nn.Identity()
    grid = min(7, side // 2 if side >= 4 else side)
    places = nn.Sequential(pool, nn.AdaptiveAvgPool2d(grid), nn.Flatten())
    fc6 = nn.Sequential(places, nn.Linear(inputs * grid**2, units), nn.ReLU(inplace=True), nn.Dropout())
    fc7 = nn.Sequential(nn.Linear(units, units), nn.ReLU(inplace=True), nn.Dropout())
    return {"fc6": fc6, "fc7": fc7}
