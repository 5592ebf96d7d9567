"""The configuration of every way of training. Importable without torch: this is what the forms and the YAML show.

A method's class lies in the file of its name beside this one. Ranges stand in the descriptions too, since Prefect's
forms don't show limits.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from data.types import Frozen

Backbone = Literal["smallconv", "alexnet", "vgg16", "vgg16_bn", "resnet18", "resnet50"]
OptimizerName = Literal["sgd", "lars", "adamw", "muon"]


class Views(Frozen):
    """How an image becomes a random view. Zero switches a part off."""

    view_size: int | None = Field(
        None,
        ge=8,
        le=1024,
        description="Side of the views, px (8 to 1024); empty: data.image_size. Smaller ones train faster.",
    )
    crop_min: float = Field(
        0.08,
        ge=0.01,
        le=1,
        description="Smallest area of a random crop, as a share of the image (0.01 to 1; 1 = no crop).",
    )
    flip: float = Field(
        0.5, ge=0, le=1, description="Probability of a left-right flip (0 to 1). 0 for digits and text."
    )
    rotate: float = Field(0.0, ge=0, le=180, description="Largest random rotation, in degrees either way (0 to 180).")
    shear: float = Field(0.0, ge=0, le=60, description="Largest random shear, in degrees either way (0 to 60).")
    shift: float = Field(
        0.0,
        ge=0,
        le=0.5,
        description="Largest random shift along each axis, as a share of the side (0 to 0.5); what comes in is black.",
    )
    zoom: float = Field(
        1.0, ge=1, le=4, description="Largest random zoom, in and out (1 to 4; 1 = none); what comes in is black."
    )
    stretch: float = Field(
        1.0, ge=1, le=4, description="Largest random change of the ratio of width to height (1 to 4; 1 = none)."
    )
    jitter: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Strength s of colour jitter: brightness, contrast, saturation 0.8 s, hue 0.2 s (0 to 1).",
    )
    jitter_probability: float = Field(0.8, ge=0, le=1, description="Probability of colour jitter (0 to 1).")
    grey: float = Field(0.2, ge=0, le=1, description="Probability of dropping colour (0 to 1).")
    blur: float = Field(0.0, ge=0, le=1, description="Probability of Gaussian blur, sigma 0.1 to 2 px (0 to 1).")
    noise: float = Field(
        0.0, ge=0, le=1, description="Standard deviation of Gaussian noise on each value, which lie in 0 to 1 (0 to 1)."
    )


class Optimization(Frozen):
    """How weights move."""

    optimizer: OptimizerName = Field(
        "sgd", description="sgd (Nesterov momentum 0.9), lars (large batches), adamw, or muon (short trainings)."
    )
    learning_rate: float = Field(
        0.1,
        gt=0,
        le=100,
        description="Peak learning rate, after warm-up (above 0, up to 100). Not rescaled by batch size.",
    )
    weight_decay: float = Field(5e-4, ge=0, le=1, description="Weight decay, not on biases and norms (0 to 1).")
    warmup: float = Field(
        0.05, ge=0, lt=1, description="Share of the steps with linearly rising rate; then cosine to 0 (0 to below 1)."
    )


class Teacher(Frozen):
    """What every pretext method has. Listed last among the bases, so that its fields come first in forms."""

    method: str
    backbone: Backbone = Field("smallconv", description="Teacher network.")
    width: float = Field(1.0, gt=0, le=8, description="Multiplies the backbone's channels (above 0, up to 8).")
    epochs: int = Field(100, ge=1, le=100_000, description="Passes over train and unlabelled images (1 to 100000).")
    batch_size: int = Field(256, ge=2, le=65_536, description="Images a step (2 to 65536).")


class SimCLR(Views, Optimization, Teacher):
    """SimCLR v2 (Chen et al. 2020): two views of an image attract, all others repel; three-layer head."""

    method: Literal["simclr"] = Field("simclr", description="Pretext method.")
    temperature: float = Field(0.5, gt=0, le=10, description="Temperature tau of NT-Xent (above 0, up to 10).")
    head_layers: Literal[2, 3] = Field(
        3, description="Layers of the projection head: 2 as in SimCLR, 3 as in SimCLRv2."
    )
    projection: int = Field(128, ge=2, le=8192, description="Width of the projection z (2 to 8192).")


class JigsawPlusPlus(Optimization, Teacher):
    """Jigsaw++ (Noroozi et al. 2018): which permutation shuffled the 3 x 3 tiles, with up to two tiles of another image."""

    method: Literal["jigsaw++"] = Field("jigsaw++", description="Pretext method.")
    backbone: Backbone = Field("vgg16", description="Teacher network, applied to each tile.")
    permutations: int = Field(
        701, ge=2, le=1512, description="Size of the permutation set (2 to 1512), minimum Hamming distance at least 3."
    )
    occluders: int = Field(
        2,
        ge=0,
        le=4,
        description="Most tiles replaced by tiles of one other image (0 to 4); 0, 1, ... are equally likely.",
    )
    grey: float = Field(0.7, ge=0, le=1, description="Probability of dropping colour (0 to 1).")
    tile: int | None = Field(
        None, ge=8, le=512, description="Side of a tile in px (8 to 512); empty: 64/85 of a cell, as in the paper."
    )
    channel_shift: int = Field(
        2,
        ge=0,
        le=8,
        description="Largest shift of a colour channel against the others, px (0 to 8); breaks chromatic aberration cues.",
    )
    tile_features: int = Field(1024, ge=8, le=8192, description="Width of the shared layer per tile (8 to 8192).")


PretextConfig = SimCLR | JigsawPlusPlus


class Transfer(Frozen):
    """What every transfer method has. Listed last among the bases, so that its fields come first in forms."""

    method: str
    epochs: int = Field(
        100, ge=1, le=100_000, description="Passes: each draws as many images as there are (1 to 100000)."
    )
    batch_size: int = Field(256, ge=2, le=65_536, description="Images a step (2 to 65536).")


class PseudoLabels(Views, Optimization, Transfer):
    """Classify every image into its cluster, clusters drawn uniformly (Noroozi et al. 2018). Only membership is passed on."""

    method: Literal["pseudo-labels"] = Field("pseudo-labels", description="Transfer method.")


TransferConfig = PseudoLabels


class FewLabels(Frozen):
    """What only fine-tuning has. Listed last among its bases, so that these fields come first in forms."""

    steps: int = Field(300, ge=1, le=10_000_000, description="Optimisation steps (1 to 10000000).")
    batch_size: int = Field(
        64, ge=2, le=65_536, description="Images a step, drawn from the labelled ones (2 to 65536)."
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
    baseline: bool = Field(
        True, description="Also train the student from scratch on the same labels, to show what the chain bought."
    )
    seed: int | None = Field(None, ge=0, description="Seed of this stage; empty: the run's.")


class Finetune(Views, Optimization, FewLabels):
    """Train a classifier on the few labels, for the student, the teacher and the from-scratch baseline."""


class SoftLabels(Frozen):
    """What only distillation has. Listed last among its bases, so that these fields come first in forms."""

    epochs: int = Field(50, ge=1, le=100_000, description="Passes over train and unlabelled images (1 to 100000).")
    batch_size: int = Field(256, ge=2, le=65_536, description="Images a step (2 to 65536).")
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
    init: Literal["finetuned", "transferred", "scratch"] = Field(
        "finetuned", description="Which student starts: fine-tuned, transferred (new classifier) or untrained."
    )
    seed: int | None = Field(None, ge=0, description="Seed of this stage; empty: the run's.")


class Distill(Views, Optimization, SoftLabels):
    """Teach the student the teacher's probabilities on all images (SimCLRv2, section 2.3)."""
