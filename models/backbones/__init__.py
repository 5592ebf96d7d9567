"""Backbones by name. `models.configs.BACKBONES` has the same names, each with a one-line description."""

from __future__ import annotations

from collections.abc import Callable

from data.errors import ConfigError
from models.backbones.alexnet import alexnet
from models.backbones.backbone import Backbone
from models.backbones.mobilenet import mobilenet_v3
from models.backbones.reactnet import binary_convolutions, reactnet
from models.backbones.resnet import (
    resnet18,
    resnet34,
    resnet50,
    resnet50_sk,
    resnet101,
    resnet101_sk,
    resnet152,
    resnet152_sk,
)
from models.backbones.smallconv import smallconv
from models.backbones.timm_network import timm_backbone
from models.backbones.vgg import vgg16, vgg16_bn
from models.backbones.vit import vit_small, vit_tiny
from models.configs.shared import TIMM

__all__ = ["BACKBONES", "TORCHVISION", "Backbone", "make_backbone"]

BACKBONES: dict[str, Callable[[int, float, int], Backbone]] = {
    "smallconv": smallconv,
    "alexnet": alexnet,
    "vgg16": vgg16,
    "vgg16_bn": vgg16_bn,
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "resnet101": resnet101,
    "resnet152": resnet152,
    "resnet50_sk": resnet50_sk,
    "resnet101_sk": resnet101_sk,
    "resnet152_sk": resnet152_sk,
    "mobilenet_v3": mobilenet_v3,
    "vit_tiny": vit_tiny,
    "vit_small": vit_small,
    "reactnet": reactnet,
}
TORCHVISION: dict[str, str] = {
    "resnet18": "resnet18",
    "resnet34": "resnet34",
    "resnet50": "resnet50",
    "resnet101": "resnet101",
    "resnet152": "resnet152",
    "alexnet": "alexnet",
    "vgg16": "vgg16",
    "vgg16_bn": "vgg16_bn",
    "mobilenet_v3": "mobilenet_v3_large",
}
"""Our backbones that are made after one of torchvision's -> the name of its constructor.

Both list their layers in the order of computation, so their tensors have the same order and shapes, but other
names."""


def make_backbone(
    name: str, image_size: int, width: float = 1.0, in_channels: int = 3, real_weights: bool = False
) -> Backbone:
    """Make a backbone with fresh weights from torch's global generator, which `models.network` seeds.

    Args:
        name: one of `BACKBONES`, or `timm:` followed by the name of a network in the package timm, and
            `?key=value&...` for its arguments.
        image_size: side of the square images, px. Strides and pools depend on it, so that small images keep
            enough places. Weights of the small form don't fit the large one. Later inputs may have any size
            that the form accepts.
        width: multiplies the channels. They are rounded to multiples of 8, in a vision transformer of 64.
        in_channels: channels of the images.
        real_weights: whether 1-bit convolutions use their real-valued weights, on binary activations.

    Raises:
        ConfigError: the name is unknown, timm is not installed, the images are too small for the backbone, or
            `real_weights` is True for a backbone without 1-bit convolutions.
    """
    if name.startswith(TIMM):
        backbone = timm_backbone(name.removeprefix(TIMM), image_size, width, in_channels)
    elif name in BACKBONES:
        backbone = BACKBONES[name](image_size, width, in_channels)
    else:
        raise ConfigError(
            f"backbone: {name!r} is unknown; choose one of {', '.join(BACKBONES)}, or {TIMM}NAME"
        )
    if image_size < backbone.least_size:
        raise ConfigError(
            f"backbone: {name} needs images (or tiles) of at least {backbone.least_size} px, "
            f"not {image_size} px; raise data.image_size or choose smallconv"
        )
    if real_weights:
        convolutions = binary_convolutions(backbone)
        if not convolutions:
            raise ConfigError(f"backbone: {name} has no 1-bit weights that could stay real; choose reactnet")
        for convolution in convolutions:
            convolution.real_weights = True
    return backbone
