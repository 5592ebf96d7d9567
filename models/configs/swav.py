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
    """SwAV (Caron et al. 2020): views predict each other's cluster, found online under equal shares; multi-crop."""

    trainer: ClassVar[str] = "models.methods.swav:SwAVMethod"
    codes: ClassVar[bool] = True

    method: Literal["swav"] = Field("swav", description="Pretext method.")
    prototypes: int = Field(
        300,
        ge=2,
        le=100_000,
        description="Prototypes K (2 to 100000): ten times the classes or more; 3000 in the paper.",
    )
    projection: int = Field(128, ge=2, le=8192, description="Width of the projection z (2 to 8192).")
    hidden: int | None = Field(
        None,
        ge=2,
        le=65_536,
        description="Width of the head's hidden layer (2 to 65536); empty: the backbone's features, as in the paper's ResNet-50.",
    )
    temperature: float = Field(0.1, gt=0, le=10, description="Temperature tau of the predictions (above 0, up to 10).")
    epsilon: float = Field(
        0.03,
        gt=0,
        le=10,
        description="Entropy epsilon of the codes (above 0, up to 10): 0.05 in the paper; less, 0.01 to 0.03, on small images, or where the loss stays at ln K.",
    )
    sinkhorn_iterations: int = Field(
        3,
        ge=0,
        le=1000,
        description="Sinkhorn-Knopp iterations a step (0 to 1000); 0: no equal shares, codes are the softmax of the scores, which collapse.",
    )
    hard_codes: bool = Field(
        False, description="Predict the largest entry of a code alone; soft ones are better online."
    )
    freeze_epochs: float = Field(
        1.0, ge=0, le=1000, description="Passes at the start in which prototypes stand still (0 to 1000)."
    )
    queue: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="Past embeddings a view (0 to 1000000) that codes are balanced over as well, for batches smaller than K; 3840 in the paper at 256 images.",
    )
    queue_epoch: int = Field(
        15, ge=0, le=100_000, description="Passes before the queue begins to fill (0 to 100000); it is used once full."
    )
    crop_min: Annotated[
        CropMin, Field(description="Smallest area of a large crop, as a share of the image (0.01 to 1).")
    ] = 0.14
    optimizer: Annotated[
        Optimizer,
        Field(description="lars (as in the paper), sgd (Nesterov momentum 0.9), adamw, or muon (short trainings)."),
    ] = "lars"
    learning_rate: Annotated[
        LearningRate,
        Field(
            description="Peak learning rate, after warm-up (above 0, up to 100); the paper's: 0.6 at 256 images, 4.8 at 4096."
        ),
    ] = 0.6
    weight_decay: WeightDecay = 1e-06
