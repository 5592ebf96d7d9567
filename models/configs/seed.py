"""Configuration of `models/methods/seed.py`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from models.configs.shared import (
    Blur,
    BothBlended,
    CropMin,
    LearningRate,
    LearnsFrom,
    Optimization,
    Transfer,
    Views,
    WeightDecay,
)


class Seed(Views, Optimization, Transfer):
    """SEED (Fang et al. 2021): reproduce the teacher's similarities to a queue of its embeddings."""

    trainer: ClassVar[str] = "models.methods.seed:SeedMethod"
    reads: ClassVar[LearnsFrom] = "teacher"
    later: ClassVar[frozenset[str]] = frozenset({"mixup", "dense", "dense_temperature"})

    method: Literal["seed"] = Field("seed", description="Transfer method.")
    temperature: float = Field(
        0.2,
        gt=0,
        le=10,
        description="Temperature of the student's similarities (above 0, up to 10); 0.2 in the paper.",
    )
    teacher_temperature: float = Field(
        0.01,
        gt=0,
        le=10,
        description=(
            "Temperature of the teacher's similarities (above 0, up to 10). "
            "The authors' code has 0.0001, which makes them nearly one-hot."
        ),
    )
    queue: int = Field(
        4096,
        ge=1,
        le=1_048_576,
        description="Number of teacher embeddings in the queue (1 to 1048576); 65536 in the paper.",
    )
    mixup: BothBlended = 0.0
    dense: float = Field(
        0.0,
        ge=0,
        le=100,
        description=(
            "Weight of a second loss (0 to 100): for each place of the teacher's last map, the student "
            "learns which other places of the image the teacher finds alike. 0: there is none."
        ),
    )
    dense_temperature: float = Field(
        0.07, gt=0, le=10, description="Temperature of both networks in this loss (above 0, up to 10)."
    )

    learning_rate: Annotated[
        LearningRate,
        Field(
            description=(
                "Peak learning rate, reached after the warm-up (above 0, up "
                "to 100). The default is the paper's for 256 images per step."
            )
        ),
    ] = 0.03
    weight_decay: WeightDecay = 0.0001
    crop_min: CropMin = 0.2
    blur: Blur = 0.5
