"""Configuration of `models/methods/s2bnn.py`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from models.configs.shared import (
    Blur,
    CropMin,
    Epochs,
    LearningRate,
    LearnsFrom,
    Optimization,
    Optimizer,
    Schedule,
    Transfer,
    Views,
    Warmup,
    WeightDecay,
)


class S2BNN(Views, Optimization, Transfer):
    """S2-BNN (Shen et al. 2021): a 1-bit student learns a real-valued teacher's embeddings.

    The first training has binary activations and real-valued weights; in the second, both are binary.
    """

    trainer: ClassVar[str] = "models.methods.s2bnn:S2BNNMethod"
    reads: ClassVar[LearnsFrom] = "teacher"
    phases: ClassVar[tuple[str, ...]] = ("activations", "weights")
    revision: ClassVar[int] = 2  # 2: the temperature of the distillation follows the width

    method: Literal["s2bnn"] = Field("s2bnn", description="Transfer method.")
    epochs: Annotated[
        Epochs, Field(description="Epochs of each of the two trainings (1 to 100000); 200 in the paper.")
    ] = 100
    strategy: Literal["distill", "contrastive+distill", "contrastive"] = Field(
        "distill",
        description=(
            "What the student learns from: the teacher (distill, the best in "
            "the paper), contrast between its own views (contrastive), or both."
        ),
    )
    teacher: Literal["offline", "online"] = Field(
        "offline",
        description=(
            "offline freezes the teacher; online continues to train "
            "it with a contrastive loss, alongside the student."
        ),
    )
    temperature: float = Field(
        0.2,
        gt=0,
        le=10,
        description=(
            "Temperature tau of both losses (above 0, up to 10); 0.2 in the paper. "
            "It is meant for embeddings of 128 coordinates. For d coordinates, the distillation uses "
            "tau times the root of 128 / d, because the targets of a wide teacher would otherwise be flat."
        ),
    )
    projection: int = Field(
        128,
        ge=2,
        le=8192,
        description="Width of the embeddings, unless a frozen teacher sets it (2 to 8192).",
    )
    queue: int = Field(
        4096,
        ge=1,
        le=1_048_576,
        description="Number of keys in the queue of the contrastive loss (1 to 1048576); 65536 in the paper.",
    )
    momentum: float = Field(
        0.99,
        ge=0,
        le=1,
        description=(
            "Weight of the key encoder's old weights in its moving average "
            "(0 to 1), used by the contrastive loss; 0.999 in the paper."
        ),
    )

    optimizer: Annotated[
        Optimizer,
        Field(
            description=(
                "sgd (Nesterov momentum 0.9), lars (large batches), adamw (Adam without decay), or muon."
            )
        ),
    ] = "adamw"
    learning_rate: Annotated[
        LearningRate,
        Field(
            description=(
                "Peak learning rate, reached after the warm-up (above 0, up "
                "to 100). The default is the paper's for 256 images per step."
            )
        ),
    ] = 0.0003
    weight_decay: Annotated[
        WeightDecay,
        Field(
            description=(
                "Weight decay (0 to 1). Biases and norms have none. "
                "Decay makes the signs of the weights flip more easily."
            )
        ),
    ] = 0.0
    warmup: Warmup = 0.0
    schedule: Schedule = "linear"
    crop_min: CropMin = 0.2
    jitter_probability: float = Field(0.6, ge=0, le=1, description="Probability of colour jitter (0 to 1).")
    blur: Blur = 0.2
