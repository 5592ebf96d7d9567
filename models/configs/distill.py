"""Configuration of `models/methods/distill.py`."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from models.configs.shared import BatchSize, Epochs, Lasting, Optimization, Seed, Views


class SoftLabels(Lasting):
    """Fields that only distillation has.

    `Distill` lists this base last, because forms show the fields of the last base first.
    """

    later: ClassVar[frozenset[str]] = frozenset(
        {"mixup", "transferred_learning_rate", "transferred_mixup", "precise_bn"}
    )

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
    mixup: float = Field(
        0.0,
        ge=0,
        le=10,
        description=(
            "Mix-up: blend each image with another one of the batch, and their probabilities alike. Each "
            "step draws the share of the other one from a Beta distribution with both parameters equal to "
            "this (0 to 10), folded at a half. 0: images are not blended. It needs alpha = 1."
        ),
    )
    transferred_learning_rate: float | None = Field(
        None,
        gt=0,
        description=(
            "Learning rate (above 0) if init is favoured, and the labels favour what transfer has learned. A "
            "small one keeps it. Empty: learning_rate."
        ),
    )
    transferred_mixup: float | None = Field(
        None, ge=0, le=10, description="Mix-up in the same case (0 to 10); empty: mixup."
    )
    precise_bn: bool = Field(
        False,
        description=(
            "Precise batch norm: after training, compute the running statistics of batch norms again from "
            "up to 2000 of the images, whole as in tests, instead of from random views."
        ),
    )
    seed: Seed | None = Field(
        None, description="Seed of this stage (0 to 9223372036854775807); empty: the run's seed."
    )


class Distill(Views, Optimization, SoftLabels):
    """Train the student on the teacher's probabilities for all images (SimCLRv2, section 2.3)."""

    @model_validator(mode="after")
    def _labels_are_not_blended(self) -> Self:
        if self.alpha < 1 and (self.mixup or self.transferred_mixup):
            raise ValueError(
                f"alpha = {self.alpha:g} adds the labelled loss, whose images mix-up would blend; set alpha "
                "to 1, or mixup and transferred_mixup to 0"
            )
        return self
