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
    """Colorization (Zhang et al. 2016): predict colours from the lightness of an image.

    The network assigns one of 313 colours to each place of a coarse grid. The images must have colour.
    """

    trainer: ClassVar[str] = "models.methods.colorization:ColorizationMethod"
    needs_colours: ClassVar[bool] = True
    invariant: ClassVar[bool] = False

    method: Literal["colorization"] = Field("colorization", description="Pretext method.")
    crop_min: CropMin = 0.25
    jitter: Jitter = 0.0
    grey: Grey = 0.0
    optimizer: Optimizer = "adamw"
    learning_rate: LearningRate = 0.001
    neighbours: int = Field(
        5,
        ge=1,
        le=50,
        description=(
            "Number of nearest bins that a colour is split over (1 to 50); 5 in the paper, 10 in its code."
        ),
    )
    rebalance: float = Field(
        0.5,
        ge=0,
        le=1,
        description=(
            "Lambda, the balance of rare and frequent colours in the loss (0 to 1): at "
            "0 all colours count the same in total, at 1 all places count the same."
        ),
    )
    grey_threshold: float = Field(
        5.0,
        ge=0,
        le=100,
        description=(
            "Images whose a and b values are all within this distance "
            "of 0 count as colourless and are left out (0 to 100)."
        ),
    )
    temperature: float = Field(
        0.38,
        gt=0,
        le=10,
        description=(
            "Temperature T of the annealed mean that turns predicted bins into a colour (above 0, up to 10)."
        ),
    )
    hidden: int = Field(256, ge=8, le=4096, description="Channels of the head's hidden layers (8 to 4096).")
