"""Configuration of `models/methods/inpainting.py`."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from models.configs.shared import (
    CropMin,
    Grey,
    Jitter,
    LearningRate,
    Optimization,
    Optimizer,
    Teacher,
    Views,
)


class Inpainting(Views, Optimization, Teacher):
    """Context encoder (Pathak et al. 2016): fill in a hole in the image, optionally against an adversary."""

    trainer: ClassVar[str] = "models.methods.inpainting:InpaintingMethod"
    needs_colours: ClassVar[bool] = True
    invariant: ClassVar[bool] = False

    method: Literal["inpainting"] = Field("inpainting", description="Pretext method.")
    crop_min: CropMin = 0.25
    jitter: Jitter = 0.0
    grey: Grey = 0.0
    optimizer: Optimizer = "adamw"
    learning_rate: LearningRate = 0.001
    hole: Literal["centre", "blocks"] = Field(
        "centre",
        description=(
            "Shape of the hole: centre is one square in the middle; "
            "blocks are squares at random places that may overlap."
        ),
    )
    area: float = Field(
        0.25,
        ge=0.01,
        le=0.8,
        description=(
            "Share of the image that the hole covers (0.01 to 0.8); "
            "1/4 in the paper. Blocks cover at most this share."
        ),
    )
    blocks: int = Field(5, ge=1, le=64, description="Number of squares if the hole is blocks (1 to 64).")
    overlap: int | None = Field(
        None,
        ge=0,
        le=64,
        description=(
            "Width in px of the hole's rim, which stays visible and counts tenfold in "
            "the loss (0 to 64); empty: 1/32 of the side, as in the authors' code."
        ),
    )
    adversarial: float = Field(
        0.0,
        ge=0,
        lt=1,
        description=(
            "Weight w of the adversarial loss (0 to below 1); reconstruction has 1 - w. With 0 "
            "there is no adversary, as in the paper's training of features; its pictures use 0.001."
        ),
    )
    adversary_learning_rate: float = Field(
        2e-4,
        gt=0,
        le=1,
        description="Peak learning rate of the adversary's Adam (above 0, up to 1); 0.0002 in the paper.",
    )
    hidden: int = Field(
        256,
        ge=32,
        le=4096,
        description=(
            "Channels of the decoder's first layer (32 to 4096). Each further layer has half as many."
        ),
    )
