"""Configuration of `models/methods/distill.py`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from data.types import Frozen
from models.configs.shared import BatchSize, Epochs, Optimization, Views


class SoftLabels(Frozen):
    """What only distillation has. Listed last among its bases, so that these fields come first in forms."""

    epochs: Epochs = 50
    batch_size: BatchSize = 256
    temperature: float = Field(
        1.0,
        gt=0,
        le=100,
        description="Sharpens (below 1) or softens the teacher's probabilities, tau (above 0, up to 100).",
    )
    alpha: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Weight of distillation against the labelled loss: (1 - alpha) CE + alpha distillation (0 to 1).",
    )
    rounds: int = Field(
        1,
        ge=1,
        le=8,
        description="Rounds of that many epochs (1 to 8); before each further one labels are propagated anew, over neighbours that the student finds too (needs predict.joint).",
    )
    init: Literal["finetuned", "transferred", "scratch"] = Field(
        "finetuned", description="Which student starts: fine-tuned, transferred (new classifier) or untrained."
    )
    seed: int | None = Field(None, ge=0, description="Seed of this stage; empty: the run's.")


class Distill(Views, Optimization, SoftLabels):
    """Teach the student the teacher's probabilities on all images (SimCLRv2, section 2.3)."""
