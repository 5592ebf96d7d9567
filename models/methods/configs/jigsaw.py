"""Configuration of `models/methods/jigsaw.py`."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from models.methods.configs.shared import Backbone, Optimization, Teacher


class JigsawPlusPlus(Optimization, Teacher):
    """Jigsaw++ (Noroozi et al. 2018): which permutation shuffled the 3 x 3 tiles, with up to two tiles of another image."""

    trainer: ClassVar[str] = "models.methods.jigsaw:JigsawPlusPlusMethod"

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
