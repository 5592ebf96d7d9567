"""Configuration of `models/methods/distill.py`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from models.configs.shared import BatchSize, Epochs, Lasting, Optimization, Seed, Views


class SoftLabels(Lasting):
    """Fields that only distillation has.

    `Distill` lists this base last, because forms show the fields of the last base first.
    """

    epochs: Epochs = 50
    batch_size: BatchSize = 256
    temperature: float = Field(
        1.0,
        gt=0,
        le=100,
        description=(
            "Temperature tau (above 0, up to 100): below 1 it sharpens "
            "the teacher's probabilities, above 1 it softens them."
        ),
    )
    alpha: float = Field(
        1.0,
        ge=0,
        le=1,
        description=(
            "Weight alpha of distillation (0 to 1). The loss is (1 "
            "- alpha) cross-entropy on labels + alpha distillation."
        ),
    )
    rounds: int = Field(
        1,
        ge=1,
        le=8,
        description=(
            "Number of rounds (1 to 8). Each is a training as long as epochs or steps say. Before each "
            "further round, labels spread again over a graph that includes the student's neighbours; this "
            "needs predict.joint or ship.compare."
        ),
    )
    init: Literal["finetuned", "transferred", "scratch", "favoured"] = Field(
        "finetuned",
        description=(
            "Student to start from: finetuned, transferred (with a new classifier), scratch (untrained), or "
            "favoured (the one that the labels favour, also among those trained from scratch; this needs "
            "ship.compare)."
        ),
    )
    seed: Seed | None = Field(
        None, description="Seed of this stage (0 to 9223372036854775807); empty: the run's seed."
    )


class Distill(Views, Optimization, SoftLabels):
    """Train the student on the teacher's probabilities for all images (SimCLRv2, section 2.3)."""
