"""Configuration of `models/methods/pseudo_labels.py`."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from models.configs.shared import LearnsFrom, Optimization, Transfer, Views


class PseudoLabels(Views, Optimization, Transfer):
    """Classify every image into its cluster (Noroozi et al. 2018).

    The student learns nothing else about the teacher, so it may have any architecture. Training draws all
    clusters equally often.
    """

    trainer: ClassVar[str] = "models.methods.pseudo_labels:PseudoLabelsMethod"

    method: Literal["pseudo-labels"] = Field("pseudo-labels", description="Transfer method.")
    labels: Literal["clusters", "codes"] = Field(
        "clusters",
        description=(
            "Labels that the student learns: clusters are those of the teacher's features; codes are "
            "the labels that a pretext method such as SwAV computes itself (those of its first head)."
        ),
    )

    @property
    def learns_from(self) -> LearnsFrom:
        """What the student learns from: the clusters, or the codes if `labels` asks for them."""
        return "codes" if self.labels == "codes" else "assignments"
