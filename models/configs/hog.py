"""Configuration of `models/hog.py`."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from models.configs.shared import Descriptor


class HOG(Descriptor):
    """Histograms of oriented gradients (Dalal and Triggs 2005) in place of a teacher; nothing is trained."""

    descriptor: ClassVar[str] = "models.hog:descriptor"

    method: Literal["hog"] = Field("hog", description="Pretext method.")
    orientations: int = Field(9, ge=2, le=36, description="Bins of a half turn (2 to 36); the paper's 9.")
    cell: int = Field(8, ge=2, le=128, description="Side of a cell, px (2 to 128); the paper's 8.")
    block: int = Field(
        2, ge=1, le=8, description="Cells a side of a block, which is normalised (1 to 8); the paper's 2."
    )
