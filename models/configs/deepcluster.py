"""Configuration of `models/methods/deepcluster.py`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from models.configs.shared import Optimization, Schedule, Teacher, Views


class DeepCluster(Views, Optimization, Teacher):
    """DeepCluster (Caron et al. 2018): before every epoch cluster all features, then learn the clusters as classes."""

    trainer: ClassVar[str] = "models.methods.deepcluster:DeepClusterMethod"
    codes: ClassVar[bool] = True

    method: Literal["deepcluster"] = Field("deepcluster", description="Pretext method.")
    clusters: int = Field(
        100,
        ge=2,
        le=1_000_000,
        description="Clusters k (2 to 1000000), at most the number of images: about ten times the classes; 10000 in the paper.",
    )
    pca: int | None = Field(
        256, ge=1, le=8192, description="Dimensions kept by PCA-whitening (1 to 8192), at most; empty: no PCA."
    )
    iterations: int = Field(20, ge=1, le=1000, description="Most iterations of K-means an epoch (1 to 1000).")
    schedule: Annotated[
        Schedule,
        Field(
            description="How the rate goes on after the warm-up: as it is, as in the paper, or half a cosine or a line to 0; every epoch's new top layer has to be learned."
        ),
    ] = "constant"
