"""Configuration of `models/methods/simclr.py`."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from models.configs.shared import MomentumTeacher, Optimization, Teacher, Views


class SimCLR(Views, Optimization, Teacher):
    """SimCLR v2 (Chen et al. 2020): pull two views of an image together and push other images apart."""

    trainer: ClassVar[str] = "models.methods.simclr:SimCLRMethod"

    method: Literal["simclr"] = Field("simclr", description="Pretext method.")
    temperature: float = Field(
        0.5, gt=0, le=10, description="Temperature tau of NT-Xent (above 0, up to 10)."
    )
    head_layers: Literal[2, 3] = Field(
        3, description="Layers of the projection head: 2 as in SimCLR, 3 as in SimCLRv2."
    )
    projection: int = Field(128, ge=2, le=8192, description="Width of the projection z (2 to 8192).")
    memory: int = Field(
        0,
        ge=0,
        le=1_048_576,
        description=(
            "Number of further negatives (0 to 1048576): embeddings of past batches by a momentum "
            "network. 0 uses none. It should be well below the number of images; 65536 in SimCLRv2."
        ),
    )
    memory_momentum: float = Field(
        0.999,
        ge=0,
        le=1,
        description="Weight of the memory network's old weights in its moving average (0 to 1).",
    )

    @property
    def memory_teacher(self) -> MomentumTeacher:
        """The moving average of the memory network, with constant momentum."""
        return MomentumTeacher(momentum=self.memory_momentum, momentum_final=self.memory_momentum)
