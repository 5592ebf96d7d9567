"""Configurations of the evaluations that train a network, and of the map of the images.

Their classes are in `models/evaluation`: detection.py, segmentation.py, multi_label.py and nonlinear.py. The
map's projections are in `models/evaluation/projection.py`.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from data.types import Frozen
from models.configs.shared import (
    BatchSize,
    CropMin,
    Epochs,
    Grey,
    Jitter,
    LearningRate,
    Optimization,
    Sized,
    Views,
    WeightDecay,
)

Side = Annotated[
    int,
    Field(
        ge=64,
        le=2048,
        description=(
            "Length of the photographs' longer side in px (64 to 2048). They are scaled, not cropped."
        ),
    ),
]
Steps = Annotated[int, Field(ge=1, le=10_000_000, description="Optimisation steps (1 to 10000000).")]


class Detection(Optimization, Sized):
    """Faster R-CNN (Ren et al. 2015) on the network's convolutional layers; other layers start untrained."""

    side: Side = 512
    scales: list[float] = Field(
        [1.0],
        min_length=1,
        max_length=8,
        description=(
            "Scales of the photographs (each 0.25 to 1). Training draws one at random; "
            "the test merges the detections of all scales. [1.0] is single-scale."
        ),
    )
    steps: Steps = 2000
    batch_size: Annotated[BatchSize, Field(description="Photographs per step (2 to 65536).")] = 4
    anchors: list[int] = Field(
        [32, 64, 128, 256],
        min_length=1,
        max_length=8,
        description=(
            "Sides of the anchors at scale 1 in px (8 to 2048 each). Each side has anchors of three shapes."
        ),
    )
    learning_rate: LearningRate = 0.01
    weight_decay: WeightDecay = 0.0005


class Segmentation(Optimization, Sized):
    """Fully convolutional network (Long et al. 2015): a class for each pixel, from the last feature map."""

    side: Side = 512
    scales: list[float] = Field(
        [1.0],
        min_length=1,
        max_length=8,
        description=(
            "Scales of the photographs (each 0.25 to 1). Training draws one at random; the test uses scale 1."
        ),
    )
    steps: Steps = 2000
    batch_size: Annotated[BatchSize, Field(description="Photographs per step (2 to 65536).")] = 4
    learning_rate: LearningRate = 0.01
    weight_decay: WeightDecay = 0.0005


class FineTuning(Frozen):
    """Fields that only multi-label classification has.

    `MultiLabel` lists this base last, because forms show the fields of the last base first.
    """

    steps: Steps = 2000
    batch_size: Annotated[BatchSize, Field(description="Images per step (2 to 65536).")] = 16
    crops: int = Field(
        10,
        ge=1,
        le=100,
        description="Number of random crops per test image whose scores are averaged (1 to 100).",
    )


class MultiLabel(Views, Optimization, FineTuning):
    """Fine-tuning to predict which classes an image shows (VOC07 classification): one sigmoid per class."""

    learning_rate: LearningRate = 0.001
    weight_decay: WeightDecay = 1e-06
    crop_min: CropMin = 0.25
    jitter: Jitter = 0.0
    grey: Grey = 0.0


class Above(Frozen):
    """Fields that only the non-linear probe has.

    `NonLinear` lists this base last, because forms show the fields of the last base first.
    """

    layers: list[str] = Field(
        [],
        max_length=64,
        description=(
            "Layers to probe (at most 64). For each one, the network up to it is frozen "
            "and all layers above are trained from scratch. Empty: the middle layer."
        ),
    )
    epochs: Epochs = 10
    batch_size: BatchSize = 256
    hidden: int = Field(
        1024, ge=2, le=65_536, description="Width of the MLP on the last features (2 to 65536)."
    )


class NonLinear(Views, Optimization, Above):
    """Non-linear probes of frozen layers: an MLP, and the layers above a frozen one trained from scratch."""

    learning_rate: LearningRate = 0.05
    crop_min: CropMin = 0.25
    jitter: Jitter = 0.0
    grey: Grey = 0.0


def _installed(name: str) -> str:
    if name == "tsne" and find_spec("openTSNE") is None:
        raise ValueError(
            "needs the package openTSNE; install it with: pip install 'knowledge-transfer[explore]'"
        )
    return name


class Explore(Frozen):
    """The map of the images in the report: their features in two dimensions."""

    projection: Annotated[Literal["pca", "tsne"], AfterValidator(_installed)] = Field(
        "pca",
        description="How features become two dimensions. pca: the two directions of largest variance. "
        "tsne: t-SNE, which keeps neighbours together; it needs the package openTSNE, and a minute instead "
        "of a second.",
    )
    points: int = Field(
        2000,
        ge=100,
        le=3000,
        description="Number of random images on the map (100 to 3000). Wrong test images and labelled images "
        "are added, at most as many again, and also the most typical images of each cluster.",
    )
