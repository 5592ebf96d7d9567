"""Configuration of `models/methods/moco.py`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from models.configs.shared import (
    CropMin,
    LearningRate,
    MomentumFinal,
    MomentumTeacher,
    Optimization,
    Teacher,
    TeacherNorm,
    Views,
)


class MoCo(Views, MomentumTeacher, Optimization, Teacher):
    """MoCo v2 (Chen et al. 2020): recognise the other view of an image among a queue of other images.

    A momentum encoder computes the embeddings in the queue.
    """

    trainer: ClassVar[str] = "models.methods.moco:MoCoMethod"
    revision: ClassVar[int] = 2  # 2: the projection head is published

    method: Literal["moco"] = Field("moco", description="Pretext method.")
    temperature: float = Field(
        0.1,
        gt=0,
        le=10,
        description="Temperature tau of InfoNCE (above 0, up to 10); 0.2 in the paper, for ImageNet.",
    )
    queue: int = Field(
        4096,
        ge=1,
        le=1_048_576,
        description=(
            "Number of keys in the queue (1 to 1048576). It should "
            "be well below the number of images; 65536 in the paper."
        ),
    )
    symmetric: bool = Field(
        False,
        description=(
            "Use each view once as query and once as key. A step then "
            "costs twice as much and teaches about twice as much."
        ),
    )
    head_layers: Literal[1, 2] = Field(
        2,
        description="Layers of the projection head, which has no batch norm: 1 as in MoCo, 2 as in MoCo v2.",
    )
    projection: int = Field(128, ge=2, le=8192, description="Width of the embeddings q and k (2 to 8192).")
    student_norm: Literal["batch", "split"] = Field(
        "split",
        description=(
            "Batch-norm statistics of the query encoder: batch uses the "
            "whole batch, split uses each of norm_groups groups of it."
        ),
    )

    momentum_final: Annotated[
        MomentumFinal,
        Field(description="Final momentum (0 to 1), reached along half a cosine. MoCo keeps it constant."),
    ] = 0.99
    teacher_norm: Annotated[
        TeacherNorm,
        Field(
            description=(
                "Batch-norm statistics of the key encoder: batch uses the whole "
                "batch, split uses each of norm_groups shuffled groups of it (as "
                "on several GPUs), momentum uses MomentumBN's moving statistics."
            )
        ),
    ] = "split"
    learning_rate: Annotated[
        LearningRate,
        Field(
            description=(
                "Peak learning rate, reached after the warm-up (above 0, up "
                "to 100). The default is the paper's for 256 images per step."
            )
        ),
    ] = 0.03
    crop_min: CropMin = 0.2
