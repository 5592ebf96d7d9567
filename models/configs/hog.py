"""Configuration of `models/hog.py`."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from models.configs.shared import Descriptor


class HOG(Descriptor):
    """Histograms of oriented gradients (Dalal and Triggs 2005) instead of a teacher; nothing is trained."""

    descriptor: ClassVar[str] = "models.hog:descriptor"

    method: Literal["hog"] = Field("hog", description="Pretext method.")
    orientations: int = Field(
        9, ge=2, le=36, description="Number of orientation bins in half a turn (2 to 36); 9 in the paper."
    )
    cell: int = Field(8, ge=2, le=128, description="Side of a cell in px (2 to 128); 8 in the paper.")
    block: int = Field(
        2,
        ge=1,
        le=8,
        description=(
            "Cells along each side of a block, within which "
            "histograms are normalised (1 to 8); 2 in the paper."
        ),
    )
