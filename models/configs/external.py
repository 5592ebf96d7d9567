"""Configuration of features that were computed elsewhere; `data/external.py` reads them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from models.configs.shared import Pretext


class External(Pretext):
    """Features that were computed elsewhere, read from Parquet; nothing is trained."""

    method: Literal["external"] = Field("external", description="Pretext method.")
    features: str = Field(
        min_length=1,
        pattern=r"^parquet:.+",
        description=(
            "parquet:PATH, where PATH is a file, folder, glob or fsspec URL. The files "
            "need a column vector, and sha256 or uri to name the vector's image."
        ),
    )
