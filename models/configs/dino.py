"""Configuration of `models/methods/dino.py`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from models.configs.shared import (
    AsymmetricViews,
    CropMin,
    LearningRate,
    MomentumTeacher,
    Optimization,
    Optimizer,
    SmallBlur,
    SmallCropCount,
    SmallCropMax,
    SmallCrops,
    Teacher,
    Warmup,
    WeightDecay,
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
    small_crops: SmallCropCount = 8
    small_crop_max: SmallCropMax = 0.4
    small_blur: SmallBlur = 0.5
    crop_min: Annotated[
        CropMin, Field(description="Smallest area of a large crop, as a share of the image (0.01 to 1).")
    ] = 0.4
    optimizer: Annotated[
        Optimizer,
        Field(description="adamw (as in the paper), sgd (Nesterov momentum 0.9), lars, or muon (short trainings)."),
    ] = "adamw"
    learning_rate: Annotated[
        LearningRate,
        Field(
            description="Peak learning rate, after warm-up (above 0, up to 100); the paper's, for 256 images a step."
        ),
    ] = 0.0005
    weight_decay: Annotated[
        WeightDecay, Field(description="Weight decay at first, not on biases and norms (0 to 1).")
    ] = 0.04
    weight_decay_final: float = Field(
        0.4, ge=0, le=1, description="The same at the end (0 to 1), reached along half a cosine."
    )
    warmup: Warmup = 0.1
