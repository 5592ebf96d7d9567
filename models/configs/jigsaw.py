"""Configurations of `models/methods/jigsaw.py`."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from models.configs.shared import Backbone, Grey, Optimization, Teacher

Construction = Literal["pgammal", "even"]
LARGEST_GROUP = 1512
"""Permutations that `pgammal` has."""


class Puzzle(Optimization, Teacher):
    """What Jigsaw and Jigsaw++ share."""

    trainer: ClassVar[str] = "models.methods.jigsaw:JigsawMethod"

    backbone: Backbone = Field("alexnet", description="Teacher network, applied to each tile.")
    permutations: int = Field(100, ge=2, le=10_000, description="Size of the permutation set (2 to 10000).")
    construction: Construction = Field(
        "pgammal",
        description="Where permutations come from: pgammal (at most 1512, minimum Hamming distance 6) or even (distance 3).",
    )
    grey: Grey = 0.3
    projection: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Probability, where colour is kept, of projecting out the green-magenta direction (0 to 1).",
    )
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

    @model_validator(mode="after")
    def _enough_permutations(self) -> Puzzle:
        if self.construction == "pgammal" and self.permutations > LARGEST_GROUP:
            raise ValueError(
                f"permutations {self.permutations}: pgammal has {LARGEST_GROUP}; ask for fewer, or for construction even"
            )
        return self


class Jigsaw(Puzzle):
    """Jigsaw (Noroozi and Favaro 2016): which permutation shuffled the 3 x 3 tiles?"""

    occluders: ClassVar[int] = 0

    method: Literal["jigsaw"] = Field("jigsaw", description="Pretext method.")


class JigsawPlusPlus(Puzzle):
    """Jigsaw++ (Noroozi et al. 2018): which permutation shuffled the 3 x 3 tiles, with up to two tiles of another image."""

    method: Literal["jigsaw++"] = Field("jigsaw++", description="Pretext method.")
    backbone: Backbone = Field("vgg16", description="Teacher network, applied to each tile.")
    permutations: int = Field(701, ge=2, le=10_000, description="Size of the permutation set (2 to 10000).")
    occluders: int = Field(
        2,
        ge=0,
        le=4,
        description="Most tiles replaced by tiles of one other image (0 to 4); 0, 1, ... are equally likely.",
    )
    grey: Grey = 0.7
    projection: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Probability, where colour is kept, of projecting out the green-magenta direction (0 to 1).",
    )
