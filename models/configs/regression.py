"""Configuration of `models/methods/regression.py`."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from models.configs.shared import (
    CropMin,
    LearningRate,
    LearnsFrom,
    Optimization,
    Transfer,
    Views,
    WeightDecay,
)


class Regression(Views, Optimization, Transfer):
    """Regression: predict the features that the teacher has of the image (SimReg with stored features)."""

    trainer: ClassVar[str] = "models.methods.regression:RegressionMethod"
    reads: ClassVar[LearnsFrom] = "features"

    method: Literal["regression"] = Field("regression", description="Transfer method.")
    layers: Literal[1, 2, 4] = Field(
        2,
        description=(
            "Linear layers of the head that predicts the teacher's features (1, 2 or 4). "
            "The head is dropped afterwards."
        ),
    )

    learning_rate: LearningRate = 0.05
    weight_decay: WeightDecay = 0.0001
    crop_min: CropMin = 0.2
