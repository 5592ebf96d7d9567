"""Configuration of Momentum² Teacher, in `models/methods/byol.py`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from models.configs.byol import BYOL
from models.configs.shared import LearningRate, TeacherNorm, WeightDecay


class Momentum2(BYOL):
    """Momentum² Teacher (Li et al. 2021): BYOL with moving batch statistics in the teacher; small batches."""

    trainer: ClassVar[str] = "models.methods.byol:Momentum2Method"

    method: Literal["momentum2"] = Field("momentum2", description="Pretext method.")  # type: ignore[assignment]
    teacher_norm: Annotated[
        TeacherNorm,
        Field(
            description=(
                "Batch-norm statistics of the teacher: momentum uses MomentumBN's moving statistics. For "
                "comparison, batch uses the whole batch, split uses each of norm_groups groups of it."
            )
        ),
    ] = "momentum"
    learning_rate: Annotated[
        LearningRate,
        Field(
            description=(
                "Peak learning rate, reached after the warm-up (above 0, up "
                "to 100). The default is the paper's for 256 images per step."
            )
        ),
    ] = 0.05
    weight_decay: Annotated[
        WeightDecay,
        Field(description="Weight decay (0 to 1). Biases and norms have none, unlike in the paper."),
    ] = 0.0001
