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
    """DINO (Caron et al. 2021): predict a momentum teacher's outputs from other crops of the image.

    The teacher sees only the large crops; the student also sees small ones. The teacher's outputs are centred
    and sharpened, so that they don't collapse.
    """

    trainer: ClassVar[str] = "models.methods.dino:DINOMethod"

    method: Literal["dino"] = Field("dino", description="Pretext method.")
    outputs: int = Field(
        2048,
        ge=2,
        le=262_144,
        description="Number of outputs K of the head (2 to 262144); 65536 in the paper, for ImageNet.",
    )
    hidden: int = Field(
        512, ge=2, le=16_384, description="Width of the head's hidden layers (2 to 16384); 2048 in the paper."
    )
    bottleneck: int = Field(
        256, ge=2, le=8192, description="Width of the unit vector that enters the last layer (2 to 8192)."
    )
    head_norm: bool = Field(
        True,
        description=(
            "Use batch norm in the head. Small convolutional networks "
            "collapse without it; the paper's transformers don't need it."
        ),
    )
    temperature: float = Field(
        0.1, gt=0, le=10, description="Temperature tau_s of the student (above 0, up to 10)."
    )
    teacher_temperature: float = Field(
        0.04,
        gt=0,
        le=10,
        description=(
            "Initial temperature tau_t of the teacher (above 0, "
            "up to 10). Training tends to collapse above 0.06."
        ),
    )
    teacher_temperature_final: float = Field(
        0.07,
        gt=0,
        le=10,
        description="Temperature tau_t of the teacher after its linear warm-up (above 0, up to 10).",
    )
    teacher_warmup: float = Field(
        0.1,
        ge=0,
        le=1,
        description=(
            "Share of the steps during which the teacher's temperature "
            "rises (0 to 1); 30 of 300 epochs in the paper."
        ),
    )
    centre_momentum: float = Field(
        0.9, ge=0, le=1, description="Weight of the old centre in the centre's moving average (0 to 1)."
    )
    clip: float = Field(
        3.0,
        gt=0,
        le=1000,
        description=(
            "Largest gradient norm of a weight tensor; larger "
            "gradients are scaled down to it (above 0, up to 1000)."
        ),
    )
    freeze_epochs: float = Field(
        1.0,
        ge=0,
        le=1000,
        description="Epochs at the start during which the head's last layer is frozen (0 to 1000).",
    )
    small_crops: SmallCropCount = 8
    small_crop_max: SmallCropMax = 0.4
    small_blur: SmallBlur = 0.5
    crop_min: Annotated[
        CropMin, Field(description="Smallest area of a large crop, as a share of the image (0.01 to 1).")
    ] = 0.4
    optimizer: Annotated[
        Optimizer,
        Field(
            description=(
                "adamw (as in the paper), sgd (Nesterov momentum 0.9), lars, or muon (for short trainings)."
            )
        ),
    ] = "adamw"
    learning_rate: Annotated[
        LearningRate,
        Field(
            description=(
                "Peak learning rate, reached after the warm-up (above 0, up "
                "to 100). The default is the paper's for 256 images per step."
            )
        ),
    ] = 0.0005
    weight_decay: Annotated[
        WeightDecay, Field(description="Initial weight decay (0 to 1). Biases and norms have none.")
    ] = 0.04
    weight_decay_final: float = Field(
        0.4, ge=0, le=1, description="Final weight decay (0 to 1), reached along half a cosine."
    )
    warmup: Warmup = 0.1
