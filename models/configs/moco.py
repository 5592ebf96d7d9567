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
    """MoCo v2 (Chen et al. 2020): a view finds its image's key among a queue of keys by a momentum encoder."""

    trainer: ClassVar[str] = "models.methods.moco:MoCoMethod"

    method: Literal["moco"] = Field("moco", description="Pretext method.")
    temperature: float = Field(
        0.1, gt=0, le=10, description="Temperature tau of InfoNCE (above 0, up to 10); 0.2 in the paper, on ImageNet."
    )
    queue: int = Field(
        4096,
        ge=1,
        le=1_048_576,
        description="Keys in the queue (1 to 1048576), well below the number of images; 65536 in the paper.",
    )
    symmetric: bool = Field(
        False,
        description="Use each view once as query and once as key: twice the cost a step, for about twice as much.",
    )
    head_layers: Literal[1, 2] = Field(
        2, description="Layers of the projection head, without batch norm: 1 as in MoCo, 2 as in MoCo v2."
    )
    projection: int = Field(128, ge=2, le=8192, description="Width of the embeddings q and k (2 to 8192).")
    student_norm: Literal["batch", "split"] = Field(
        "split", description="Batch norm of the query encoder: statistics of the batch, or of norm_groups parts of it."
    )

    momentum_final: Annotated[
        MomentumFinal,
        Field(description="The same at the end (0 to 1), reached along half a cosine; MoCo's is constant."),
    ] = 0.99
    teacher_norm: Annotated[
        TeacherNorm,
        Field(
            description="Batch norm of the key encoder: statistics of the batch, of shuffled groups of it (as on several GPUs), or MomentumBN's moving ones."
        ),
    ] = "split"
    learning_rate: Annotated[
        LearningRate,
        Field(
            description="Peak learning rate, after warm-up (above 0, up to 100). The paper's, for 256 images a step."
        ),
    ] = 0.03
    crop_min: CropMin = 0.2
