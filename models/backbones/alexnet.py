"""AlexNet in one tower (Krizhevsky 2014), as in torchvision: without grouping and response norm of 2012.

Below 64 px, conv1 is 5 x 5 with stride 2 instead of 11 x 11 with stride 4, and fc6 and fc7 have 1024 units
instead of 4096. Pools are padded so that sides halve evenly (32 px: 16, 8, 4, 4, 4).
"""

from __future__ import annotations

from functools import partial

from torch import nn

from models.backbones.backbone import SMALL, Backbone, scaled


def alexnet(image_size: int, width: float, in_channels: int) -> Backbone:
    """conv1 to conv5: 64, 192, 384, 256, 256 channels times `width`, without batch norm. From 16 px up."""
    small = image_size < SMALL
    c1, c2, c3, c4, c5 = widths = [scaled(base, width) for base in (64, 192, 384, 256, 256)]
    conv1 = nn.Conv2d(in_channels, c1, 5, 2, 2) if small else nn.Conv2d(in_channels, c1, 11, 4, 2)
    stages = {
        "conv1": nn.Sequential(conv1, nn.ReLU(inplace=True)),
        "conv2": nn.Sequential(_pool(small), nn.Conv2d(c1, c2, 5, padding=2), nn.ReLU(inplace=True)),
        "conv3": nn.Sequential(_pool(small), nn.Conv2d(c2, c3, 3, padding=1), nn.ReLU(inplace=True)),
        "conv4": nn.Sequential(nn.Conv2d(c3, c4, 3, padding=1), nn.ReLU(inplace=True)),
        "conv5": nn.Sequential(nn.Conv2d(c4, c5, 3, padding=1), nn.ReLU(inplace=True)),
    }
    units = scaled(1024 if small else 4096, width)
    fc = partial(_fully_connected, c5, units, image_size)
    return Backbone(stages, dict(zip(stages, widths, strict=True)), fc=fc, fc_dim=units, least_size=16)


def _pool(small: bool) -> nn.MaxPool2d:
    return nn.MaxPool2d(3, 2, padding=1 if small else 0)


def _fully_connected(inputs: int, units: int, image_size: int) -> dict[str, nn.Module]:
    small = image_size < SMALL
    if small:
        grid = -(-image_size // 16)  # conv1, two pools and the pool below each halve the side, rounding up
    else:
        side = (image_size - 7) // 4 + 1
        for _ in range(3):
            side = (side - 3) // 2 + 1
        grid = min(6, side)
    places = nn.Sequential(_pool(small), nn.AdaptiveAvgPool2d(grid), nn.Flatten())
    fc6 = nn.Sequential(places, nn.Dropout(), nn.Linear(inputs * grid**2, units), nn.ReLU(inplace=True))
    fc7 = nn.Sequential(nn.Dropout(), nn.Linear(units, units), nn.ReLU(inplace=True))
    return {"fc6": fc6, "fc7": fc7}
