"""Configuration of `models/methods/seed.py`."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from models.methods.configs.shared import Optimization, Transfer, Views


class Seed(Views, Optimization, Transfer):
    """SEED (Fang et al. 2021): be as similar to a queue of the teacher's embeddings as the teacher is."""

    trainer: ClassVar[str] = "models.methods.seed:SeedMethod"
    reads: ClassVar[Literal["assignments", "teacher"]] = "teacher"

    method: Literal["seed"] = Field("seed", description="Transfer method.")
    temperature: float = Field(
        0.2, gt=0, le=10, description="Temperature of the student's similarities (above 0, up to 10); 0.2 in the paper."
    )
    teacher_temperature: float = Field(
        0.01,
        gt=0,
        le=10,
        description="Temperature of the teacher's similarities (above 0, up to 10); 0.0001, nearly one-hot, in the authors' code.",
    )
    queue: int = Field(
        4096, ge=1, le=1_048_576, description="Teacher's embeddings in the queue (1 to 1048576); 65536 in the paper."
    )

    learning_rate: float = Field(
        0.03,
        gt=0,
        le=100,
        description="Peak learning rate, after warm-up (above 0, up to 100). The paper's, for 256 images a step.",
    )
    weight_decay: float = Field(1e-4, ge=0, le=1, description="Weight decay, not on biases and norms (0 to 1).")
    crop_min: float = Field(
        0.2,
        ge=0.01,
        le=1,
        description="Smallest area of a random crop, as a share of the image (0.01 to 1; 1 = no crop).",
    )
    blur: float = Field(0.5, ge=0, le=1, description="Probability of Gaussian blur, sigma 0.1 to 2 px (0 to 1).")
