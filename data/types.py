"""Types that all layers share. This module imports nothing else of the project."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

Kind = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")]
"""What an artifact is: manifest, features, checkpoint ... It decides the folder, files and columns."""

Split = Literal["train", "unlabelled", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
"""All splits, in the order of a manifest's rows."""


class Frozen(BaseModel):
    """An immutable value. It is hashable if its fields are, and it refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Artifact(Frozen):
    """The name of a finished result in the store. Stages pass this name to each other, never the content.

    Attributes:
        kind: what the result is; decides files and columns.
        fingerprint: hash of stage, version, configuration, seed and the parts of the inputs that were read.
    """

    kind: Kind
    fingerprint: str

    @property
    def path(self) -> str:
        """The folder of the artifact, relative to the store."""
        return f"artifacts/{self.kind}/{self.fingerprint}"
