"""What a dry run knows about a stage's artifact before it exists: rows, bytes, operations, and the work.

Each stage's file has a function `size(run, request, inputs) -> Size`. `flows/estimate.py` calls these
functions in the order of the chain and adds up the results. The operations give the time on a GPU, and the
work gives the time on this machine's CPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, Protocol

from data.types import Artifact
from models.work import Chores, Imports, Pass, Portion, Precision, Products, Shape, Step, timed
from tasks.config import Config
from tasks.sources import Part

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from models.cost import Cost
    from models.pace import Pace
    from tasks.stage import Request


@dataclass(frozen=True)
class Counts:
    """How many images a manifest holds.

    Attributes:
        train: images of the train split.
        unlabelled: images of the unlabelled split.
        test: images of the test split.
        labelled: images of the train split that have a label.
        test_labelled: images of the test split that have a label.
        classes: number of classes.
    """

    train: int
    unlabelled: int
    test: int
    labelled: int
    test_labelled: int
    classes: int

    @property
    def all(self) -> int:
        """All images that are not in the test split."""
        return self.train + self.unlabelled


@dataclass(frozen=True)
class Planned:
    """A stage of a dry run, as the stages that read it see it.

    Attributes:
        label: the stage's name in the run.
        artifact: the artifact that it will make. Unless `known`, its fingerprint is only a placeholder.
        known: whether the fingerprint is known, so that the store can be searched for the artifact.
        rows: as in `Size`.
        images: as in `Size`.
        cost: as in `Size`.
        width: as in `Size`.
        meta: as in `Size`.
    """

    label: str
    artifact: Artifact
    known: bool
    rows: int
    images: Counts | None = None
    cost: Cost | None = None
    width: int = 0
    meta: dict[str, Any] | None = None


@dataclass
class Size:
    """The expected artifact of a stage, and the cost of making it.

    Attributes:
        rows: rows of the artifact's main table; for a checkpoint the number of parameters.
        bytes: approximate size of the artifact.
        operations: floating point operations to make it.
        images: counts of a manifest's images, for the stages that read it.
        cost: cost of the network in a checkpoint.
        width: length of the vectors, or the number of classes or clusters.
        seconds: time on this machine's CPU, besides `work`.
        work: work whose time on this machine's CPU `models.pace` measures or estimates.
        meta: what meta.json will hold, for a plan; the layout needs it to continue.
    """

    rows: int
    bytes: float
    operations: float = 0.0
    images: Counts | None = None
    cost: Cost | None = None
    width: int = 0
    seconds: float = 0.0
    work: tuple[Portion, ...] = ()
    meta: dict[str, Any] | None = None


@dataclass(frozen=True)
class Sample:
    """Some of a run's train and unlabelled images.

    Attributes:
        pixels: (n, S, S, C) uint8, n >= 1.
        shorter: median of the shorter sides of the images before they were resized, px.
    """

    pixels: NDArray[np.uint8]
    shorter: int


class Context(Protocol):
    """The dry run that a stage is part of."""

    config: Config
    decoding: float
    """Seconds in which this CPU reads and decodes one image; 0 if none was read."""
    listing: float
    """Seconds in which the images of the manifest that was counted last are listed and compared."""
    seen: dict[str, Any]
    """What was understood of the images: `understood` of the manifest's meta.json."""
    pace: Pace
    """The pace of this machine."""

    def assume(self, text: str) -> None:
        """Record an assumption of the estimate."""

    def count(self, request: Request) -> Counts:
        """Count the images of a manifest that is requested."""

    def sample(self, size: int, most: int) -> Sample | None:
        """Read a random sample of the images of the manifest that was counted first.

        Args:
            size: side of the images that a network would see, px. The squares are a bit larger from 64 px on.
            most: maximum number of images.

        Returns:
            The sample; None if the images are not here, or none of them can be read.
        """


Inputs = Mapping[str, Planned]
"""The stages whose artifacts a stage reads, by the names of its plan's parameters."""


def images_of(inputs: Inputs, name: str = "manifest") -> Counts:
    """The images of a manifest that a stage reads."""
    images = inputs[name].images
    assert images is not None, f"{inputs[name].label} is not a manifest"
    return images


def rows_of_part(inputs: Inputs, part: Part) -> int:
    """The number of images in the features of a part."""
    images = images_of(inputs)
    return images.test if part == "test" else images.all


def cost_of(inputs: Inputs, name: str = "checkpoint") -> Cost:
    """The cost of a network that a stage reads."""
    cost = inputs[name].cost
    assert cost is not None, f"{inputs[name].label} is not a checkpoint"
    return cost


@cache
def classifier(backbone: str, width: float, image_size: int, classes: int, form: int | None = None) -> Cost:
    """The cost of a backbone with a linear classifier."""
    from models.cost import classifier_cost

    return classifier_cost(backbone, width, image_size, classes, form)


def trained(cost: Cost, operations: float, *work: Portion) -> Size:
    """The size of a checkpoint with float32 weights."""
    return Size(cost.parameters, 4 * cost.parameters, operations, cost=cost, work=work)


def scored(rows: int, operations: float = 0.0, *work: Portion) -> Size:
    """The size of a table of scores."""
    return Size(rows, 3e3, operations, work=work)


Section = Literal["pretext", "transfer", "finetune", "distill", "nonlinear"]


def step(
    section: Section,
    settings: Mapping[str, Any],
    cost: Cost,
    batch_size: int,
    precision: Precision,
    *,
    teacher: Shape | None = None,
    phase: str | None = None,
) -> Step:
    """One step of a training.

    Args:
        section: the section of the configuration that has the method's settings.
        settings: these settings.
        cost: of the network that is trained.
        batch_size: images per step.
        precision: `compute.precision`.
        teacher: the network that a student learns from; None if it learns labels.
        phase: name of the training, if the method has several.
    """
    network = cost.shape.model_copy(update={"pretext": None}) if section == "pretext" else cost.shape
    size = network.image_size
    share = 1.0 if section == "pretext" else ((settings.get("view_size") or size) / size) ** 2
    return Step(
        section=section,
        settings=timed(settings),
        network=network,
        teacher=teacher,
        phase=phase,
        batch_size=batch_size,
        precision=precision,
        operations=cost.step * batch_size * share,
    )


def steps(
    run: Context,
    section: Section,
    settings: Mapping[str, Any],
    cost: Cost,
    batch_size: int,
    times: float,
    *,
    swept: float = 0.0,
    teacher: Shape | None = None,
    phase: str | None = None,
) -> Portion:
    """Steps of a training.

    Args:
        run: the dry run.
        section: see `step`.
        settings: see `step`.
        cost: see `step`.
        batch_size: see `step`.
        times: number of steps.
        swept: number of images times number of epochs, for a method that works between epochs.
        teacher: see `step`.
        phase: see `step`.
    """
    precision = run.config.compute.precision
    work = step(section, settings, cost, batch_size, precision, teacher=teacher, phase=phase)
    return Portion(work, times, swept)


def passes(
    run: Context,
    cost: Cost,
    times: float,
    views: Mapping[str, Any] | None = None,
    *,
    precision: Literal["auto", "fp32", "bf16"] | None = None,
) -> Portion:
    """Forward passes.

    Args:
        run: the dry run.
        cost: of the network.
        times: number of images.
        views: settings of the random view that is made of each image; None: its centre.
        precision: of the passes; None: `compute.precision`.
    """
    given = Pass(
        network=cost.shape,
        views=None if views is None else dict(views),
        batch_size=run.config.embed.batch_size,
        precision=precision or run.config.compute.precision,
        operations=cost.forward,
    )
    return Portion(given, times)


def products(operations: float) -> Portion:
    """Operations of products of matrices, and of what takes as long as these."""
    return Portion(Products(), operations)


def chores(seconds: float) -> Portion:
    """What Python does, such as imports, tables and pages.

    Args:
        seconds: on the machine on which `models.trials.CHORES` was measured.
    """
    return Portion(Chores(), seconds)


def imports(seconds: float) -> Portion:
    """Imports of libraries.

    Args:
        seconds: on the machine on which `models.work.IMPORTS` was measured.
    """
    return Portion(Imports(), seconds)


def decoded(run: Context, images: Counts, read: float, side: int | None = None) -> float:
    """Seconds in which the images of a training are decoded, if there are too many to keep their pixels.

    Args:
        run: the dry run.
        images: all images of the manifest.
        read: number of images that are read, each counted as often as it is read.
        side: of the squares that are read, px; None: of those of the run's own networks.
    """
    from data.images import KEPT
    from data.preprocessing import stored_size

    pixels = (images.all + images.test) * 3 * (side or stored_size(run.config.data.image_size)) ** 2
    return 0.0 if pixels <= KEPT else read * run.decoding / run.config.compute.decoders
