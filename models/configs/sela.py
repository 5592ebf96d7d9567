"""Configuration of `models/methods/sela.py`."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from models.configs.shared import Optimization, Teacher, Views


class SeLa(Views, Optimization, Teacher):
    """SeLa (Asano et al. 2020): learn labels that the network itself assigns, balanced by optimal transport.

    Each label gets an equal share of the images.
    """

    trainer: ClassVar[str] = "models.methods.sela:SeLaMethod"
    codes: ClassVar[bool] = True

    method: Literal["sela"] = Field("sela", description="Pretext method.")
    clusters: int = Field(
        128,
        ge=2,
        le=100_000,
        description=(
            "Number of labels K per head (2 to 100000). The authors use 128 for CIFAR and 3000 for ImageNet."
        ),
    )
    heads: int = Field(
        10, ge=1, le=64, description="Number of labellings that are learned at the same time (1 to 64)."
    )
    lamb: float = Field(
        10.0,
        gt=0,
        le=1000,
        description=(
            "Lambda, the power to which probabilities are raised before labels are balanced "
            "(above 0, up to 1000). The authors use 10 for CIFAR and 25 for ImageNet."
        ),
    )
    relabellings: int = Field(
        50,
        ge=1,
        le=100_000,
        description=(
            "How many times all images are relabelled during training, at most once per epoch (1 to 100000)."
        ),
    )
    spacing: Literal["quadratic", "even"] = Field(
        "quadratic",
        description=(
            "When images are relabelled: quadratic (more often early, as "
            "the authors do for ImageNet) or even (as they do for CIFAR)."
        ),
    )
    tolerance: float = Field(
        0.1,
        gt=0,
        le=1000,
        description=(
            "Sinkhorn-Knopp stops when the change of the images' scalings, "
            "summed over all images, falls below this (above 0, up to 1000)."
        ),
    )
