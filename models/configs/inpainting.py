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
    """Context encoder (Pathak et al. 2016): what is in the hole? With an adversary, if wanted."""

    trainer: ClassVar[str] = "models.methods.inpainting:InpaintingMethod"

    method: Literal["inpainting"] = Field("inpainting", description="Pretext method.")
    crop_min: CropMin = 0.25
    jitter: Jitter = 0.0
    grey: Grey = 0.0
    optimizer: Optimizer = "adamw"
    learning_rate: LearningRate = 0.001
    hole: Literal["centre", "blocks"] = Field(
        "centre", description="One square in the middle, or squares at random places that may overlap."
    )
    area: float = Field(
        0.25,
        ge=0.01,
        le=0.8,
        description="Share of the image that the hole takes, of blocks at most (0.01 to 0.8); the paper's 1/4.",
    )
    blocks: int = Field(5, ge=1, le=64, description="Squares of a hole of blocks (1 to 64).")
    overlap: int | None = Field(
        None,
        ge=0,
        le=64,
        description="Rim of the hole that stays visible and counts tenfold, px (0 to 64); empty: 1/32 of the side, as in the authors' code.",
    )
    adversarial: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Weight of the adversarial loss, 1 less it that of reconstruction (0 to below 1); 0: no adversary, as for features; 0.001 in the paper.",
    )
    adversary_learning_rate: float = Field(
        2e-4, gt=0, le=1, description="Peak rate of the adversary's Adam (above 0, up to 1); the paper's 0.0002."
    )
    hidden: int = Field(
        256, ge=32, le=4096, description="Channels of the decoder's first layer, halved by each (32 to 4096)."
    )
