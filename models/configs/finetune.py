"""Configuration of `models/methods/finetune.py`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from data.types import Frozen
from models.configs.shared import BatchSize, Optimization, Views


class FewLabels(Frozen):
    """What only fine-tuning has. Listed last among its bases, so that these fields come first in forms."""

    steps: int = Field(300, ge=1, le=10_000_000, description="Optimisation steps (1 to 10000000).")
    batch_size: Annotated[BatchSize, Field(description="Images a step, drawn from the labelled ones (2 to 65536).")] = (
        64
    )
    learning_rates: list[float] = Field(
        [],
        max_length=16,
        description="At most 16 rates to choose from on the validation part (from 10 labels a class on); empty: learning_rate alone.",
    )
    head_learning_rate: float | None = Field(
        None, gt=0, le=100, description="Rate of the new layers (above 0, up to 100); empty: learning_rate."
    )
    baseline_learning_rate: float | None = Field(
        None,
        gt=0,
        le=100,
        description="Rate of the baseline where there is no grid to choose from (above 0, up to 100); empty: learning_rate.",
    )
    freeze: bool = Field(False, description="Train only the new layers; the rest stands still.")
    keep_fc: bool = Field(
        False, description="Keep the fully connected layers learned on pseudo-labels instead of drawing them anew."
    )
    keep_head: int = Field(
        1,
        ge=0,
        le=2,
        description="Layers of a projection head kept under the classifier, as far as there are (0 to 2): 1 fine-tunes from SimCLRv2's middle layer, 0 from the features.",
    )
    baseline: bool = Field(
        True, description="Also train the student from scratch on the same labels, to show what the chain bought."
    )
    seed: int | None = Field(None, ge=0, description="Seed of this stage; empty: the run's.")


class Finetune(Views, Optimization, FewLabels):
    """Train a classifier on the few labels, for the student, the teacher and the from-scratch baseline."""
