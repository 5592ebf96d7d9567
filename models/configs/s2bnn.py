"""Configuration of `models/methods/s2bnn.py`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from models.configs.shared import (
    Blur,
    CropMin,
    Epochs,
    LearningRate,
    Optimization,
    Optimizer,
    Schedule,
    Transfer,
    Views,
    Warmup,
    WeightDecay,
)


class S2BNN(Views, Optimization, Transfer):
    """S2-BNN (Shen et al. 2021): a 1-bit student learns a real-valued teacher's embeddings, in two trainings."""

    trainer: ClassVar[str] = "models.methods.s2bnn:S2BNNMethod"
    reads: ClassVar[Literal["assignments", "teacher"]] = "teacher"
    phases: ClassVar[tuple[str, ...]] = ("activations", "weights")

    method: Literal["s2bnn"] = Field("s2bnn", description="Transfer method.")
    epochs: Annotated[
        Epochs, Field(description="Passes over all images in each of both trainings (1 to 100000); 200 in the paper.")
    ] = 100
    strategy: Literal["distill", "contrastive+distill", "contrastive"] = Field(
        "distill", description="What the student learns from: the teacher (the paper's best), both, or contrast alone."
    )
    teacher: Literal["offline", "online"] = Field(
        "offline", description="The teacher is frozen, or goes on to be trained beside the student, by contrast."
    )
    temperature: float = Field(
        0.2, gt=0, le=10, description="Temperature tau of both losses (above 0, up to 10); 0.2 in the paper."
    )
    projection: int = Field(
        128, ge=2, le=8192, description="Width of embeddings where no frozen teacher sets it (2 to 8192)."
    )
    queue: int = Field(
        4096, ge=1, le=1_048_576, description="Keys in the queue of contrast (1 to 1048576); 65536 in the paper."
    )
    momentum: float = Field(
        0.99,
        ge=0,
        le=1,
        description="Weight of the key encoder's old weights in contrast (0 to 1); 0.999 in the paper.",
    )

    optimizer: Annotated[
        Optimizer,
        Field(description="sgd (Nesterov momentum 0.9), lars (large batches), adamw (Adam without decay), or muon."),
    ] = "adamw"
    learning_rate: Annotated[
        LearningRate,
        Field(
            description="Peak learning rate, after warm-up (above 0, up to 100). The paper's, for 256 images a step."
        ),
    ] = 0.0003
    weight_decay: Annotated[
        WeightDecay,
        Field(description="Weight decay, not on biases and norms (0 to 1); it would make signs flip easily."),
    ] = 0.0
    warmup: Warmup = 0.0
    schedule: Schedule = "linear"
    crop_min: CropMin = 0.2
    jitter_probability: float = Field(0.6, ge=0, le=1, description="Probability of colour jitter (0 to 1).")
    blur: Blur = 0.2
