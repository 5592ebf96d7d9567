"""Configuration of Momentum² Teacher, in `models/methods/byol.py`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from models.configs.byol import BYOL
from models.configs.shared import LearningRate, TeacherNorm, WeightDecay


class Momentum2(BYOL):
    """Momentum² Teacher (Li et al. 2021): BYOL with momentum on the teacher's batch statistics too; small batches."""

    trainer: ClassVar[str] = "models.methods.byol:Momentum2Method"

    method: Literal["momentum2"] = Field("momentum2", description="Pretext method.")  # type: ignore[assignment]  # its own
    teacher_norm: Annotated[
        TeacherNorm,
        Field(
            description="Batch norm of the teacher: MomentumBN's moving statistics with the lazy update; or, to compare, of the batch or of parts of it."
        ),
    ] = "momentum"
    learning_rate: Annotated[
        LearningRate,
        Field(
            description="Peak learning rate, after warm-up (above 0, up to 100). The paper's, for 256 images a step."
        ),
    ] = 0.05
    weight_decay: Annotated[
        WeightDecay, Field(description="Weight decay, not on biases and norms (0 to 1). The paper's is on all.")
    ] = 0.0001
