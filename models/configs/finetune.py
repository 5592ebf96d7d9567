"""Configuration of `models/methods/finetune.py`."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from models.configs.shared import BatchSize, Optimization, Seed, Sized, Views


class FewLabels(Sized):
    """Fields that only fine-tuning has.

    `Finetune` lists this base last, because forms show the fields of the last base first.
    """

    later: ClassVar[frozenset[str]] = frozenset({"head_first", "balanced", "mixup"})

    steps: int = Field(300, ge=1, le=10_000_000, description="Optimisation steps (1 to 10000000).")
    batch_size: Annotated[BatchSize, Field(description="Labelled images per step (2 to 65536).")] = 64
    learning_rates: list[float] = Field(
        [],
        max_length=16,
        description=(
            "Learning rates to choose from on a validation part, if there are at "
            "least 10 labels per class (at most 16 rates); empty: learning_rate."
        ),
    )
    head_learning_rate: float | None = Field(
        None,
        gt=0,
        le=100,
        description="Learning rate of the new layers (above 0, up to 100); empty: learning_rate.",
    )
    baseline_learning_rate: float | None = Field(
        None,
        gt=0,
        le=100,
        description=(
            "Learning rate of the baseline if none is chosen from "
            "learning_rates (above 0, up to 100); empty: learning_rate."
        ),
    )
    baseline_steps: int | None = Field(
        None,
        ge=1,
        le=10_000_000,
        description=(
            "Steps of the networks from scratch (1 to 10000000); empty: as many as all trainings of the "
            "student together, or finetune.steps where candidates are compared."
        ),
    )
    mixup: float = Field(
        0.0,
        ge=0,
        le=10,
        description=(
            "Mix-up: blend each image with another one of the batch, and their classes alike. Each step "
            "draws the share of the other one from a Beta distribution with both parameters equal to this (0 "
            "to 10), folded at a half. 0: images are not blended."
        ),
    )
    baseline_mixup: float | None = Field(
        None, ge=0, le=10, description="Mix-up of the networks from scratch (0 to 10); empty: mixup."
    )
    head_first: bool = Field(
        False,
        description=(
            "Start with a logistic regression on the frozen network as the classifier, instead of an "
            "untrained one. Then small rates keep what the network has learned."
        ),
    )
    balanced: bool = Field(
        False,
        description=(
            "Count every class the same, however many labels it has, when classifiers are trained, "
            "compared and shipped. This is for uneven labels where rare classes matter as much as others."
        ),
    )
    freeze: bool = Field(False, description="Train only the new layers and freeze the rest.")
    keep_fc: bool = Field(
        False,
        description=(
            "Keep the fully connected layers that were learned "
            "on pseudo-labels instead of reinitialising them."
        ),
    )
    keep_head: int = Field(
        1,
        ge=0,
        le=2,
        description=(
            "Largest number of projection-head layers to keep below the classifier (0 "
            "to 2): 1 fine-tunes from SimCLRv2's middle layer, 0 from the features."
        ),
    )
    baseline: bool = Field(
        True,
        description=(
            "Also train the student from scratch on the same labels, to show how much the chain helps. Where "
            "candidates are compared, it is always trained."
        ),
    )
    seed: Seed | None = Field(
        None, description="Seed of this stage (0 to 9223372036854775807); empty: the run's seed."
    )


class Finetune(Views, Optimization, FewLabels):
    """Train the student, the teacher and the from-scratch baseline to classify, on the few labels."""
