"""Configuration of `models/methods/rotation.py`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from models.configs.shared import BatchSize, CropMin, Grey, Jitter, Optimization, Teacher, Views


class Rotation(Views, Optimization, Teacher):
    """RotNet (Gidaris et al. 2018): predict by how many quarter turns the image is rotated."""

    trainer: ClassVar[str] = "models.methods.rotation:RotationMethod"
    invariant: ClassVar[bool] = False

    method: Literal["rotation"] = Field("rotation", description="Pretext method.")
    batch_size: Annotated[
        BatchSize,
        Field(description="Images per step (2 to 65536), each in all four rotations; 128 in the paper."),
    ] = 128
    crop_min: CropMin = 0.5
    jitter: Jitter = 0.0
    grey: Grey = 0.0

    @model_validator(mode="after")
    def _upright(self) -> Rotation:
        if self.turn > 0:
            raise ValueError(
                f"turn = {self.turn:g}, but method rotation has to find out by how many quarter turns an "
                "image is rotated; set turn to 0, or choose another method for images without an upright "
                "position"
            )
        return self
