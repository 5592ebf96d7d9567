"""Configuration of `models/methods/rotation.py`."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from models.methods.configs.shared import Optimization, Teacher, Views


class Rotation(Views, Optimization, Teacher):
    """RotNet (Gidaris et al. 2018): by how many quarter turns is the image rotated?"""

    trainer: ClassVar[str] = "models.methods.rotation:RotationMethod"

    method: Literal["rotation"] = Field("rotation", description="Pretext method.")
    batch_size: int = Field(
        128, ge=2, le=65_536, description="Images a step (2 to 65536), each in all four rotations; the paper's 128."
    )
    crop_min: float = Field(
        0.5,
        ge=0.01,
        le=1,
        description="Smallest area of a random crop, as a share of the image (0.01 to 1; 1 = no crop).",
    )
    jitter: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Strength s of colour jitter: brightness, contrast, saturation 0.8 s, hue 0.2 s (0 to 1).",
    )
    grey: float = Field(0.0, ge=0, le=1, description="Probability of dropping colour (0 to 1).")
