"""Configuration of `models/methods/colorization.py`."""

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


class Colorization(Views, Optimization, Teacher):
    """Colorization (Zhang et al. 2016): from lightness alone, which of 313 colours is it? Needs images with colour."""

    trainer: ClassVar[str] = "models.methods.colorization:ColorizationMethod"

    method: Literal["colorization"] = Field("colorization", description="Pretext method.")
    crop_min: CropMin = 0.25
    jitter: Jitter = 0.0
    grey: Grey = 0.0
    optimizer: Optimizer = "adamw"
    learning_rate: LearningRate = 0.001
    neighbours: int = Field(
        5, ge=1, le=50, description="Nearest bins that share a colour (1 to 50): 5 in the paper, 10 in its code."
    )
    rebalance: float = Field(
        0.5,
        ge=0,
        le=1,
        description="lambda, how far rare and frequent colours count alike per place (1) or per class (0) (0 to 1).",
    )
    grey_threshold: float = Field(
        5.0,
        ge=0,
        le=100,
        description="An image whose a and b all lie within this of 0 has no colour and is left out (0 to 100).",
    )
    temperature: float = Field(
        0.38, gt=0, le=10, description="T of the annealed mean that colours are read off by (above 0, up to 10)."
    )
    hidden: int = Field(256, ge=8, le=4096, description="Channels of the head (8 to 4096).")
