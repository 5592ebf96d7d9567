"""The words all layers share. Imports nothing of ours."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict

Kind = Literal[
    "manifest",
    "labels",
    "checkpoint",
    "features",
    "clusters",
    "assignments",
    "codes",
    "probabilities",
    "scores",
    "report",
    "drift",
]
KINDS: tuple[str, ...] = get_args(Kind)

Split = Literal["train", "unlabelled", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
"""In the order in which a manifest's rows stand."""


class Frozen(BaseModel):
    """A value: immutable, hashable where its fields are, and refusing keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Artifact(Frozen):
    """A finished result in the store, named by what was asked. This, never its content, passes between stages.

    Attributes:
        kind: what it is; decides files and columns.
        fingerprint: hash of stage, version, configuration, seed and the parts of its inputs that were read.
    """

    kind: Kind
    fingerprint: str

    @property
    def path(self) -> str:
        """Folder relative to the store."""
        return f"artifacts/{self.kind}/{self.fingerprint}"
