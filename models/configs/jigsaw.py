"""Configurations of `models/methods/jigsaw.py`."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from models.configs.shared import Backbone, Grey, Length, Optimization, Teacher, px

Construction = Literal["pgammal", "even"]
CELLS = 3
"""Cells of the puzzle along each side."""
PAPER_TILE = 64 / 85
"""Side of a tile in the paper, as a share of a cell's side."""
LARGEST_GROUP = 1512
"""Number of permutations that `pgammal` has."""


class Puzzle(Optimization, Teacher):
    """Fields that Jigsaw and Jigsaw++ share."""

    trainer: ClassVar[str] = "models.methods.jigsaw:JigsawMethod"
    needs_colours: ClassVar[bool] = True

    backbone: Backbone = Field(
        "alexnet",
        description="Teacher network, applied to each tile. timm:NAME is a network of the package timm.",
    )
    permutations: int = Field(
        100, ge=2, le=10_000, description="Number of permutations to tell apart (2 to 10000)."
    )
    construction: Construction = Field(
        "pgammal",
        description=(
            "Source of the permutations: pgammal (at most 1512, "
            "minimum Hamming distance 6) or even (minimum distance 3)."
        ),
    )
    grey: Grey = 0.3
    projection: float = Field(
        0.0,
        ge=0,
        le=1,
        description=(
            "Probability of removing the green-magenta direction from images that keep their colour (0 to 1)."
        ),
    )
    tile: Length | None = Field(
        None,
        description=(
            "Side of a tile, as a share of a cell's side (above 0, up to 1) or in px (8 to 1024); empty: "
            "64/85 of a cell's side, as in the paper. A cell has a third of data.image_size."
        ),
    )
    channel_shift: int = Field(
        2,
        ge=0,
        le=8,
        description=(
            "Largest random shift of each colour channel in px (0 to 8). It hides "
            "chromatic aberration, which would give the tiles' places away."
        ),
    )
    tile_features: int = Field(
        1024,
        ge=8,
        le=8192,
        description="Width of the layer that is applied to each tile's features (8 to 8192).",
    )

    def tile_side(self, image_size: int) -> int:
        """Side of a tile, px. `image_size` is the side of the images, px."""
        return px(PAPER_TILE if self.tile is None else self.tile, image_size // CELLS, least=1)

    def lengths(self, image_size: int) -> dict[str, int]:
        """See `Sized`."""
        given = {} if self.tile is None else {"tile": self.tile_side(image_size)}
        return super().lengths(image_size) | given

    @model_validator(mode="after")
    def _enough_permutations(self) -> Puzzle:
        if self.construction == "pgammal" and self.permutations > LARGEST_GROUP:
            raise ValueError(
                f"permutations = {self.permutations}, but pgammal has {LARGEST_GROUP}; choose fewer,"
                " or construction even"
            )
        return self


class Jigsaw(Puzzle):
    """Jigsaw (Noroozi and Favaro 2016): predict which permutation shuffled the image's 3 x 3 tiles."""

    occluders: ClassVar[int] = 0

    method: Literal["jigsaw"] = Field("jigsaw", description="Pretext method.")


class JigsawPlusPlus(Puzzle):
    """Jigsaw++ (Noroozi et al. 2018): Jigsaw in which some tiles are replaced by tiles of another image."""

    method: Literal["jigsaw++"] = Field("jigsaw++", description="Pretext method.")
    backbone: Backbone = Field(
        "vgg16",
        description="Teacher network, applied to each tile. timm:NAME is a network of the package timm.",
    )
    permutations: int = Field(
        701, ge=2, le=10_000, description="Number of permutations to tell apart (2 to 10000)."
    )
    occluders: int = Field(
        2,
        ge=0,
        le=4,
        description=(
            "Largest number of tiles replaced by tiles of one other image "
            "(0 to 4). All numbers from 0 to this are equally likely."
        ),
    )
    grey: Grey = 0.7
    projection: float = Field(
        0.5,
        ge=0,
        le=1,
        description=(
            "Probability of removing the green-magenta direction from images that keep their colour (0 to 1)."
        ),
    )
