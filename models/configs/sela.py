"""Configuration of `models/methods/sela.py`."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from models.configs.shared import Optimization, Teacher, Views


class SeLa(Views, Optimization, Teacher):
    """SeLa (Asano et al. 2020): the network's own labels, under equal shares by optimal transport, learned as classes."""

    trainer: ClassVar[str] = "models.methods.sela:SeLaMethod"
    codes: ClassVar[bool] = True

    method: Literal["sela"] = Field("sela", description="Pretext method.")
    clusters: int = Field(
        128,
        ge=2,
        le=100_000,
        description="Labels K of each head (2 to 100000); the authors': 128 on CIFAR, 3000 on ImageNet.",
    )
    heads: int = Field(10, ge=1, le=64, description="Labellings that are learned at once (1 to 64).")
    lamb: float = Field(
        10.0,
        gt=0,
        le=1000,
        description="Lambda, the power to which probabilities are raised before labels are balanced (above 0, up to 1000); the authors': 10 on CIFAR, 25 on ImageNet.",
    )
    relabellings: int = Field(
        50, ge=1, le=100_000, description="How often all images are labelled anew (1 to 100000), at most once an epoch."
    )
    spacing: Literal["quadratic", "even"] = Field(
        "quadratic", description="When: more often early, as the authors on ImageNet, or evenly, as on CIFAR."
    )
    tolerance: float = Field(
        0.1,
        gt=0,
        le=1000,
        description="Sinkhorn-Knopp ends when the images' scalings change by less, summed over images (above 0, up to 1000).",
    )
