"""Configuration of `models/methods/pseudo_labels.py`."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from models.configs.shared import Optimization, Transfer, Views


class PseudoLabels(Views, Optimization, Transfer):
    """Classify every image into its cluster, clusters drawn uniformly (Noroozi et al. 2018). Only membership is passed on."""

    trainer: ClassVar[str] = "models.methods.pseudo_labels:PseudoLabelsMethod"

    method: Literal["pseudo-labels"] = Field("pseudo-labels", description="Transfer method.")
    labels: Literal["clusters", "codes"] = Field(
        "clusters",
        description="What the student learns: clusters of the teacher's features, or the codes that a pretext method such as SwAV gives itself (of its first head).",
    )

    @property
    def learns_from(self) -> Literal["assignments", "codes", "teacher"]:
        """As `labels` says."""
        return "codes" if self.labels == "codes" else "assignments"
