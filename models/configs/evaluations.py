"""Configurations of the evaluations that train.

Their classes are in `models/evaluation`: detection.py, segmentation.py, multi_label.py and nonlinear.py.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from data.types import Frozen
from models.configs.shared import (
    BatchSize,
    CropMin,
    Epochs,
    Grey,
    Jitter,
    LearningRate,
    Optimization,
    Views,
    WeightDecay,
)

Side = Annotated[
    int,
    Field(ge=64, le=2048, description="Longer side of the photographs, px (64 to 2048); they are scaled and not cut."),
]
Steps = Annotated[int, Field(ge=1, le=10_000_000, description="Optimisation steps (1 to 10000000).")]


class Detection(Optimization, Frozen):
    """Faster R-CNN (Ren et al. 2015) on the network's convolutional layers; all else is drawn anew."""

    side: Side = 512
    scales: list[float] = Field(
        [1.0],
        min_length=1,
        max_length=8,
        description="Scales of the photographs (each 0.25 to 1) drawn from in training; with several, what is found at each is put together in the test. [1.0] is single-scale.",
    )
    steps: Steps = 2000
    batch_size: Annotated[BatchSize, Field(description="Photographs a step (2 to 65536).")] = 4
    anchors: list[int] = Field(
        [32, 64, 128, 256],
        min_length=1,
        max_length=8,
        description="Sides of the anchors at scale 1, px (8 to 2048 each), each with three shapes.",
    )
    learning_rate: LearningRate = 0.01
    weight_decay: WeightDecay = 0.0005


class Segmentation(Optimization, Frozen):
    """A fully convolutional network (Long et al. 2015): a class for each pixel, from the last layer's map."""

    side: Side = 512
    scales: list[float] = Field(
        [1.0],
        min_length=1,
        max_length=8,
        description="Scales of the photographs (each 0.25 to 1) drawn from in training; the test is at scale 1.",
    )
    steps: Steps = 2000
    batch_size: Annotated[BatchSize, Field(description="Photographs a step (2 to 65536).")] = 4
    learning_rate: LearningRate = 0.01
    weight_decay: WeightDecay = 0.0005


class FineTuning(Frozen):
    """What only multi-label classification has. Listed last among its bases, so that these fields come first in forms."""

    steps: Steps = 2000
    batch_size: Annotated[BatchSize, Field(description="Images a step (2 to 65536).")] = 16
    crops: int = Field(10, ge=1, le=100, description="Random crops whose scores are averaged in the test (1 to 100).")


class MultiLabel(Views, Optimization, FineTuning):
    """Which classes are in an image (VOC07 classification): fine-tuned with a sigmoid for each."""

    learning_rate: LearningRate = 0.001
    weight_decay: WeightDecay = 1e-06
    crop_min: CropMin = 0.25
    jitter: Jitter = 0.0
    grey: Grey = 0.0


class Above(Frozen):
    """What only the non-linear probe has. Listed last among its bases, so that these fields come first in forms."""

    layers: list[str] = Field(
        [],
        max_length=64,
        description="Layers up to which the network stands still while all above is trained from scratch (at most 64); empty: the one in the middle.",
    )
    epochs: Epochs = 10
    batch_size: BatchSize = 256
    hidden: int = Field(1024, ge=2, le=65_536, description="Width of the MLP on the last features (2 to 65536).")


class NonLinear(Views, Optimization, Above):
    """What a non-linear classifier makes of frozen layers: an MLP, and the layers above one trained from scratch."""

    learning_rate: LearningRate = 0.05
    crop_min: CropMin = 0.25
    jitter: Jitter = 0.0
    grey: Grey = 0.0
