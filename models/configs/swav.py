"""Configuration of `models/methods/swav.py`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from models.configs.shared import (
    CropMin,
    LearningRate,
    Optimization,
    Optimizer,
    SmallCrops,
    Teacher,
    Views,
    WeightDecay,
)


class SwAV(SmallCrops, Views, Optimization, Teacher):
    """SwAV (Caron et al. 2020): predict the cluster of an image's other view; with multi-crop.

    Clusters are assigned online, in each step, so that all of them get equal shares of the images.
    """

    trainer: ClassVar[str] = "models.methods.swav:SwAVMethod"
    codes: ClassVar[bool] = True

    method: Literal["swav"] = Field("swav", description="Pretext method.")
    prototypes: int = Field(
        300,
        ge=2,
        le=100_000,
        description=(
            "Number of prototypes K (2 to 100000). Use at least "
            "ten times the number of classes; 3000 in the paper."
        ),
    )
    projection: int = Field(128, ge=2, le=8192, description="Width of the projection z (2 to 8192).")
    hidden: int | None = Field(
        None,
        ge=2,
        le=65_536,
        description=(
            "Width of the head's hidden layer (2 to 65536); empty: the "
            "width of the backbone's features, as in the paper's ResNet-50."
        ),
    )
    temperature: float = Field(
        0.1, gt=0, le=10, description="Temperature tau of the predictions (above 0, up to 10)."
    )
    epsilon: float = Field(
        0.03,
        gt=0,
        le=10,
        description=(
            "Epsilon, the weight of the codes' entropy (above 0, up to 10); 0.05 in the "
            "paper. Use 0.01 to 0.03 for small images, or if the loss stays at ln K."
        ),
    )
    sinkhorn_iterations: int = Field(
        3,
        ge=0,
        le=1000,
        description=(
            "Sinkhorn-Knopp iterations per step (0 to 1000). With 0, codes are the "
            "plain softmax of the scores without equal shares, and training collapses."
        ),
    )
    hard_codes: bool = Field(
        False,
        description="Predict only the largest entry of each code. Soft codes are better in online training.",
    )
    freeze_epochs: float = Field(
        1.0,
        ge=0,
        le=1000,
        description="Epochs at the start during which the prototypes are frozen (0 to 1000).",
    )
    queue: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description=(
            "Number of past embeddings per view that codes are balanced over as well (0 to 1000000). "
            "It helps if batches are smaller than K; 3840 in the paper with 256 images per step."
        ),
    )
    queue_epoch: int = Field(
        15,
        ge=0,
        le=100_000,
        description="Epochs before the queue begins to fill (0 to 100000). It is used once it is full.",
    )
    crop_min: Annotated[
        CropMin, Field(description="Smallest area of a large crop, as a share of the image (0.01 to 1).")
    ] = 0.14
    optimizer: Annotated[
        Optimizer,
        Field(
            description=(
                "lars (as in the paper), sgd (Nesterov momentum 0.9), adamw, or muon (for short trainings)."
            )
        ),
    ] = "lars"
    learning_rate: Annotated[
        LearningRate,
        Field(
            description=(
                "Peak learning rate, reached after the warm-up (above 0, up to 100). "
                "The paper uses 0.6 with 256 images per step and 4.8 with 4096."
            )
        ),
    ] = 0.6
    weight_decay: WeightDecay = 1e-06
