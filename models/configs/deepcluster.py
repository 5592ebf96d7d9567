"""Configuration of `models/methods/deepcluster.py`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from models.configs.shared import Optimization, Schedule, Teacher, Views


class DeepCluster(Views, Optimization, Teacher):
    """DeepCluster (Caron et al. 2018): cluster all features every epoch and learn the clusters as classes."""

    trainer: ClassVar[str] = "models.methods.deepcluster:DeepClusterMethod"
    codes: ClassVar[bool] = True

    method: Literal["deepcluster"] = Field("deepcluster", description="Pretext method.")
    clusters: int = Field(
        100,
        ge=2,
        le=1_000_000,
        description=(
            "Number of clusters k (2 to 1000000), at most the number of images. "
            "About ten times the number of classes works well; 10000 in the paper."
        ),
    )
    pca: int | None = Field(
        256,
        ge=1,
        le=8192,
        description="Largest number of dimensions that PCA-whitening keeps (1 to 8192); empty: no PCA.",
    )
    iterations: int = Field(
        20, ge=1, le=1000, description="Largest number of K-means iterations per epoch (1 to 1000)."
    )
    schedule: Annotated[
        Schedule,
        Field(
            description=(
                "Learning rate after the warm-up: constant as in the paper, or falling to 0 along half a "
                "cosine or a line. Every epoch has to learn a new top layer, which a rate near 0 prevents."
            )
        ),
    ] = "constant"
