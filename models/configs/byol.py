"""Configuration of `models/methods/byol.py`."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from models.configs.shared import AsymmetricViews, MomentumTeacher, Optimization, Teacher


class BYOL(AsymmetricViews, MomentumTeacher, Optimization, Teacher):
    """BYOL (Grill et al. 2020): predict a momentum teacher's embedding of another view; no negatives."""

    trainer: ClassVar[str] = "models.methods.byol:BYOLMethod"

    method: Literal["byol"] = Field("byol", description="Pretext method.")
    hidden: int = Field(
        1024,
        ge=2,
        le=16_384,
        description="Width of the hidden layer in projector and predictor (2 to 16384); 4096 in the paper.",
    )
    projection: int = Field(
        256, ge=2, le=8192, description="Width of the projections and predictions (2 to 8192)."
    )
    student_norm: Literal["batch", "split"] = Field(
        "batch",
        description=(
            "Batch-norm statistics of the student: batch uses the "
            "whole batch, split uses each of norm_groups groups of it."
        ),
    )
