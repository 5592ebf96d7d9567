"""Configuration of features that were made elsewhere; `data/external.py` reads them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from models.configs.shared import Pretext


class External(Pretext):
    """Features made elsewhere, read from Parquet; nothing is trained."""

    method: Literal["external"] = Field("external", description="Pretext method.")
    features: str = Field(
        min_length=1,
        pattern=r"^parquet:.+",
        description="parquet:PATH, a file, folder or glob (PATH may be any fsspec URL): column vector, and sha256 or uri of the image that it belongs to.",
    )
