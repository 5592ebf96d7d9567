"""Configuration of Momentum² Teacher, in `models/methods/byol.py`."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from models.methods.configs.byol import BYOL


class Momentum2(BYOL):
    """Momentum² Teacher (Li et al. 2021): BYOL with momentum on the teacher's batch statistics too; small batches."""

    trainer: ClassVar[str] = "models.methods.byol:Momentum2Method"

    method: Literal["momentum2"] = Field("momentum2", description="Pretext method.")  # type: ignore[assignment]  # its own
    teacher_norm: Literal["batch", "split", "momentum"] = Field(
        "momentum",
        description="Batch norm of the teacher: MomentumBN's moving statistics with the lazy update; or, to compare, of the batch or of parts of it.",
    )
    learning_rate: float = Field(
        0.05,
        gt=0,
        le=100,
        description="Peak learning rate, after warm-up (above 0, up to 100). The paper's, for 256 images a step.",
    )
    weight_decay: float = Field(
        1e-4, ge=0, le=1, description="Weight decay, not on biases and norms (0 to 1). The paper's is on all."
    )
