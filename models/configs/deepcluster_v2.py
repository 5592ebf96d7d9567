"""Configuration of `models/methods/deepcluster_v2.py`."""

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


class DeepClusterV2(SmallCrops, Views, Optimization, Teacher):
    """DeepCluster-v2 (Caron et al. 2020): cluster stored embeddings every epoch and learn the clusters.

    The clustering is spherical K-means on the embedding that training last computed for each image. All crops
    of an image, large and small, learn its cluster.
    """

    trainer: ClassVar[str] = "models.methods.deepcluster_v2:DeepClusterV2Method"
    codes: ClassVar[bool] = True

    method: Literal["deepcluster-v2"] = Field("deepcluster-v2", description="Pretext method.")
    prototypes: int = Field(
        300,
        ge=2,
        le=100_000,
        description=(
            "Number of prototypes K per head (2 to 100000), at "
            "most the number of images; 3000 in the authors' code."
        ),
    )
    heads: int = Field(
        3, ge=1, le=64, description="Number of clusterings that are learned at the same time (1 to 64)."
    )
    iterations: int = Field(
        10, ge=1, le=1000, description="Iterations of spherical K-means per epoch (1 to 1000)."
    )
    projection: int = Field(128, ge=2, le=8192, description="Width of the projection z (2 to 8192).")
    hidden: int | None = Field(
        None,
        ge=2,
        le=65_536,
        description=(
            "Width of the head's hidden layer (2 to 65536); empty: the width "
            "of the backbone's features, as in the authors' ResNet-50."
        ),
    )
    temperature: float = Field(
        0.1, gt=0, le=10, description="Temperature tau of the predictions (above 0, up to 10)."
    )
    crop_min: Annotated[
        CropMin, Field(description="Smallest area of a large crop, as a share of the image (0.01 to 1).")
    ] = 0.14
    optimizer: Annotated[
        Optimizer,
        Field(
            description=(
                "lars (used by the authors), sgd (Nesterov momentum "
                "0.9), adamw, or muon (for short trainings)."
            )
        ),
    ] = "lars"
    learning_rate: Annotated[
        LearningRate,
        Field(
            description=(
                "Peak learning rate, reached after the warm-up (above 0, up "
                "to 100); the authors use 4.8 with 4096 images per step."
            )
        ),
    ] = 0.6
    weight_decay: WeightDecay = 1e-06
