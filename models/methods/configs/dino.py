"""Configuration of `models/methods/dino.py`."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from models.methods.configs.shared import (
    AsymmetricViews,
    MomentumTeacher,
    Optimization,
    OptimizerName,
    SmallCrops,
    Teacher,
)


class DINO(SmallCrops, AsymmetricViews, MomentumTeacher, Optimization, Teacher):
    """DINO (Caron et al. 2021): small crops match what a momentum teacher, centred and sharpened, makes of large ones."""

    trainer: ClassVar[str] = "models.methods.dino:DINOMethod"

    method: Literal["dino"] = Field("dino", description="Pretext method.")
    outputs: int = Field(
        2048, ge=2, le=262_144, description="Outputs K of the head (2 to 262144); 65536 in the paper, for ImageNet."
    )
    hidden: int = Field(512, ge=2, le=16_384, description="Width inside the head (2 to 16384); 2048 in the paper.")
    bottleneck: int = Field(
        256, ge=2, le=8192, description="Width of the unit vector before the last layer (2 to 8192)."
    )
    head_norm: bool = Field(
        True,
        description="Batch norm in the head; without it small convolutional networks collapse. The paper's transformers have none.",
    )
    temperature: float = Field(0.1, gt=0, le=10, description="Temperature tau_s of the student (above 0, up to 10).")
    teacher_temperature: float = Field(
        0.04,
        gt=0,
        le=10,
        description="Temperature tau_t of the teacher at first (above 0, up to 10); above 0.06 it tends to collapse.",
    )
    teacher_temperature_final: float = Field(
        0.07, gt=0, le=10, description="The same after its warm-up, along a line (above 0, up to 10)."
    )
    teacher_warmup: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Share of the steps in which the teacher's temperature rises (0 to 1); 30 of 300 epochs in the paper.",
    )
    centre_momentum: float = Field(
        0.9, ge=0, le=1, description="Weight of the old centre in its moving average (0 to 1)."
    )
    clip: float = Field(
        3.0, gt=0, le=1000, description="Largest norm of the gradient of each weight tensor (above 0, up to 1000)."
    )
    freeze_epochs: float = Field(
        1.0, ge=0, le=1000, description="Passes at the start in which the head's last layer stands still (0 to 1000)."
    )
    small_crops: int = Field(8, ge=0, le=32, description="Small crops an image, besides the two large ones (0 to 32).")
    small_crop_max: float = Field(
        0.4, ge=0.01, le=1, description="Largest area of a small crop, as a share of the image (0.01 to 1)."
    )
    small_blur: float | None = Field(
        0.5,
        ge=0,
        le=1,
        description="Probability of Gaussian blur of a small crop (0 to 1); empty: as of the first large one.",
    )
    crop_min: float = Field(
        0.4, ge=0.01, le=1, description="Smallest area of a large crop, as a share of the image (0.01 to 1)."
    )
    optimizer: OptimizerName = Field(
        "adamw", description="adamw (as in the paper), sgd (Nesterov momentum 0.9), lars, or muon (short trainings)."
    )
    learning_rate: float = Field(
        5e-4,
        gt=0,
        le=100,
        description="Peak learning rate, after warm-up (above 0, up to 100); the paper's, for 256 images a step.",
    )
    weight_decay: float = Field(
        0.04, ge=0, le=1, description="Weight decay at first, not on biases and norms (0 to 1)."
    )
    weight_decay_final: float = Field(
        0.4, ge=0, le=1, description="The same at the end (0 to 1), reached along half a cosine."
    )
    warmup: float = Field(0.1, ge=0, lt=1, description="Share of the steps with linearly rising rate (0 to below 1).")
