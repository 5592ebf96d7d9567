"""Configuration of `models/methods/simreg.py`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from models.configs.shared import (
    Blur,
    BothBlended,
    CropMin,
    Grey,
    LearningRate,
    LearnsFrom,
    Optimization,
    Transfer,
    Views,
    WeightDecay,
)


class SimReg(Views, Optimization, Transfer):
    """SimReg (Navaneet et al. 2021): predict the teacher's embedding of the same view, by regression."""

    trainer: ClassVar[str] = "models.methods.simreg:SimRegMethod"
    reads: ClassVar[LearnsFrom] = "teacher"

    method: Literal["simreg"] = Field("simreg", description="Transfer method.")
    layers: Literal[1, 2, 4] = Field(
        4,
        description=(
            "Linear layers of the head that predicts the teacher's embedding (1, 2 or 4); "
            "4 is the best in the paper. The head is dropped afterwards."
        ),
    )
    mixup: BothBlended = 0.0

    learning_rate: Annotated[
        LearningRate,
        Field(
            description=(
                "Peak learning rate, reached after the warm-up (above 0, up "
                "to 100). The default is the paper's for 256 images per step."
            )
        ),
    ] = 0.05
    weight_decay: WeightDecay = 0.0001
    crop_min: CropMin = 0.2
    jitter: float = Field(
        0.0, ge=0, le=1, description="Strength of colour jitter (0 to 1); the paper's weak views have none."
    )
    grey: Grey = 0.0
    blur: Blur = 0.0
