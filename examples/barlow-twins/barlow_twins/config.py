"""What the form, the YAML and `--set` know of the method. Imports no torch: the flow's process reads it."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from knowledge_transfer.plugins import AsymmetricViews, Optimization, Teacher


class BarlowTwins(AsymmetricViews, Optimization, Teacher):
    """Barlow Twins (Zbontar et al. 2021): two views agree in every feature, no two features tell the same."""

    trainer: ClassVar[str] = "barlow_twins.method:BarlowTwinsMethod"

    method: Literal["barlow-twins"] = Field("barlow-twins", description="Pretext method.")
    redundancy: float = Field(
        5e-3,
        ge=0,
        le=1,
        description="Weight lambda of the correlations between features (0 to 1); the paper's 0.005.",
    )
    projection: int = Field(
        512, ge=2, le=65_536, description="Width d of the projection z (2 to 65536); 8192 in the paper."
    )
