"""Configuration of `models/methods/rotation.py`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from models.configs.shared import BatchSize, CropMin, Grey, Jitter, Optimization, Teacher, Views


class Rotation(Views, Optimization, Teacher):
    """RotNet (Gidaris et al. 2018): by how many quarter turns is the image rotated?"""

    trainer: ClassVar[str] = "models.methods.rotation:RotationMethod"

    method: Literal["rotation"] = Field("rotation", description="Pretext method.")
    batch_size: Annotated[
        BatchSize, Field(description="Images a step (2 to 65536), each in all four rotations; the paper's 128.")
    ] = 128
    crop_min: CropMin = 0.5
    jitter: Jitter = 0.0
    grey: Grey = 0.0
