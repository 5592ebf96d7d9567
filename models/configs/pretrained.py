"""Configuration of networks that somebody else trained; `models/pretrained.py` loads them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from models.configs.shared import Backbone, WithNetwork

Interpolation = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
"""Pillow's filters."""


def _from_text(value: Any) -> Any:
    """Turn 0.5,0.5,0.5 from the command line into a list, and a single number into three."""
    if isinstance(value, str) and value.strip():
        value = [part.strip() for part in value.strip("[]() ").split(",")]
        return value * 3 if len(value) == 1 else value
    return [value] * 3 if isinstance(value, int | float) else value


Colours = Annotated[
    list[Annotated[float, Field(allow_inf_nan=False)]],
    BeforeValidator(_from_text),
    Field(min_length=3, max_length=3),
]


class Pretrained(WithNetwork):
    """A network that somebody else trained, read from a file; nothing is trained.

    Keys that are empty come from the config.json beside the weights, or else from timm or torchvision.
    """

    method: Literal["pretrained"] = Field("pretrained", description="Pretext method.")
    weights: str = Field(
        min_length=1,
        description=(
            "The weights: a .safetensors file, a .pth file (read with weights_only), a folder with "
            "config.json in timm's form, or timm:NAME if they may be downloaded."
        ),
    )
    download: bool = Field(
        False,
        description=(
            "Whether timm:NAME may be downloaded. If not, it must be in the hub's cache on this machine."
        ),
    )
    backbone: Backbone | None = Field(
        None,
        description=(
            "The network that the weights belong to, by name: timm:NAME, or one of torchvision's networks "
            "(resnet18 to resnet152, mobilenet_v3, vgg16, vgg16_bn, alexnet). Empty: as config.json says."
        ),
    )
    input_size: int | None = Field(
        None,
        ge=8,
        le=1024,
        description="Side of the images that this network sees, px (8 to 1024). Empty: as the weights say.",
    )
    crop: float | None = Field(
        None,
        ge=0.1,
        le=1,
        description=(
            "Side of what the network sees, as a share of the resized image (0.1 to 1). Empty: as the "
            "weights say."
        ),
    )
    mean: Colours | None = Field(
        None,
        description=(
            "Mean of red, green and blue that is subtracted from values of 0 to 1, such as 0.5,0.5,0.5. "
            "Empty: as the weights say."
        ),
    )
    std: Colours | None = Field(
        None,
        description="Deviation of red, green and blue that divides the result. Empty: as the weights say.",
    )
    interpolation: Interpolation | None = Field(
        None, description="Filter that resizes the images for this network. Empty: as the weights say."
    )
    layer: Literal["own", "mean"] | None = Field(
        None,
        description=(
            "What the layer features is. own: the output that the network itself gives its classifier: its "
            "class token, attention pool or mean. mean: the mean over the places of the last map. Empty: own."
        ),
    )
    licence: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        description="Licence of the weights, such as Apache-2.0. Empty: as the folder says, or unknown.",
    )
