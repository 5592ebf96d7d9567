"""Descriptions of work whose time depends on the machine. `models.pace` measures such work. No torch here.

Equal descriptions stand for equal work, so a measured time can be kept and used again. A multiply-add counts
as two operations, as in `models.cost.Cost`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from data.types import Frozen

IDLE = frozenset(
    {
        "baseline",
        "baseline_learning_rate",
        "baseline_mixup",
        "batch_size",
        "continue_decay",
        "continue_rate",
        "epochs",
        "head_learning_rate",
        "init",
        "labels",
        "learning_rate",
        "learning_rates",
        "mixup",
        "precise_bn",
        "rounds",
        "schedule",
        "seed",
        "steps",
        "stop_on_collapse",
        "temperature",
        "transferred_learning_rate",
        "transferred_mixup",
        "warmup",
        "weight_decay",
        "weights",
    }
)
"""Settings of a method that don't change how long a step takes. Steps that differ only in these settings have
equal descriptions, and are measured once."""

Precision = Literal["auto", "fp32", "bf16"]
"""The values of `compute.precision`."""


def timed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a method that change how long its step takes."""
    return {name: value for name, value in settings.items() if name not in IDLE}


class Shape(Frozen):
    """How to build an untrained network that takes as long as one of a run.

    Attributes:
        backbone: name of the backbone.
        width: factor on the backbone's number of channels.
        image_size: side of the images, px.
        form: side that the backbone's strides and pools are chosen for, px; None: image_size.
        resized: side of the squares that its images are cut from, px, if others trained it and it brings its
            own input; None: as for networks that we train.
        pretext: settings of the pretext method that makes this network; None: the backbone alone.
        classes: number of classes of the classifier on top; None: there is no classifier.
        parameters: number of its parameters.
        forward: operations of a forward pass on one image.
    """

    backbone: str
    width: float
    image_size: int
    form: int | None = None
    resized: int | None = None
    pretext: dict[str, Any] | None = None
    classes: int | None = None
    parameters: int
    forward: float

    @property
    def own_input(self) -> bool:
        """Whether the network brings its own size and preparation of images, instead of the run's."""
        return self.resized is not None


class Step(Frozen):
    """One step of a training, with its views.

    Attributes:
        section: the section of the configuration that has the method's settings.
        settings: the method's settings, without the `IDLE` ones.
        network: the network that is trained; for pretext, the one that the method makes.
        teacher: the network that a student learns from; None if it learns labels.
        phase: name of the training, if the method has several.
        batch_size: images per step.
        precision: as the user wrote it.
        operations: number of operations of the step, for the whole batch.
    """

    kind: Literal["step"] = "step"
    section: Literal["pretext", "transfer", "finetune", "distill", "nonlinear"]
    settings: dict[str, Any]
    network: Shape
    teacher: Shape | None = None
    phase: str | None = None
    batch_size: int
    precision: Precision
    operations: float


class Pass(Frozen):
    """A forward pass of one image in a large batch, without gradient.

    Attributes:
        network: the network.
        views: settings of the random view that is made first; None: the centre of the image.
        batch_size: largest number of images at a time.
        precision: as the user wrote it.
        operations: number of operations of the pass, for one image.
    """

    kind: Literal["pass"] = "pass"
    network: Shape
    views: dict[str, Any] | None = None
    batch_size: int
    precision: Precision
    operations: float


class Describe(Frozen):
    """A descriptor's features of one image.

    Attributes:
        settings: settings of the pretext method, which is a `Descriptor`.
        image_size: side of the images, px.
    """

    kind: Literal["describe"] = "describe"
    settings: dict[str, Any]
    image_size: int


class Products(Frozen):
    """One operation of a large product of float32 matrices."""

    kind: Literal["products"] = "products"


class Chores(Frozen):
    """One second of Python's own work on the machine on which `models.trials.CHORES` was measured."""

    kind: Literal["chores"] = "chores"


class Imports(Frozen):
    """One second of imports on a machine on which importing `models.pace` takes `IMPORTS` seconds."""

    kind: Literal["imports"] = "imports"


IMPORTS = 4.0
"""Seconds that importing `models.pace`, with torch, takes on two quiet cores of an AMD EPYC."""
Work = Annotated[Step | Pass | Describe | Products | Chores | Imports, Field(discriminator="kind")]


@dataclass(frozen=True)
class Portion:
    """An amount of work.

    Attributes:
        work: what is done.
        times: how often it is done.
        swept: number of images times number of epochs. It gives the time that a step's method takes between
            epochs.
    """

    work: Work
    times: float
    swept: float = 0.0


def key_of(work: Work) -> str:
    """A string that is equal for equal work, whatever the order of its settings."""
    return json.dumps(work.model_dump(mode="json"), sort_keys=True)
