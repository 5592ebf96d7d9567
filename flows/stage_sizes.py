"""What each stage will make and take, before it is done: rows, bytes, operations. `flows.estimate` adds them up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

from data.errors import ConfigError
from data.types import Artifact
from tasks.config import Config, methods
from tasks.stage import Request

if TYPE_CHECKING:
    from models.cost import Cost


@dataclass(frozen=True)
class Counts:
    """How many images a manifest holds."""

    train: int
    unlabelled: int
    test: int
    labelled: int
    test_labelled: int
    classes: int

    @property
    def all(self) -> int:
        """Those without a place in the test."""
        return self.train + self.unlabelled


@dataclass(frozen=True)
class Planned:
    """A stage's artifact as far as it is known beforehand; `known`: its fingerprint is, so that a store may have it."""

    label: str
    artifact: Artifact
    known: bool
    rows: int
    images: Counts | None = None
    cost: Cost | None = None
    width: int = 0


@dataclass
class Size:
    """What a stage will make, and what that takes.

    Attributes:
        rows: of the artifact's table; for a checkpoint its parameters.
        bytes: of the artifact, about.
        operations: floating point operations.
        images: of a manifest, and of what goes by it.
        cost: of a network.
        width: of vectors, or how many classes or clusters.
    """

    rows: int
    bytes: float
    operations: float = 0.0
    images: Counts | None = None
    cost: Cost | None = None
    width: int = 0


class Context(Protocol):
    """The run that a stage is part of."""

    config: Config

    def assume(self, text: str) -> None:
        """Say what an estimate takes for granted."""

    def count(self, sources: dict[str, str | None], hold_out: bool) -> Counts:
        """Images of sources by role; without a test source a share of train is one."""


Inputs = dict[str, Planned]
SIZES: dict[str, Callable[[Context, Request, Inputs], Size]] = {}
"""By stage."""


def _size_of(stage: str) -> Callable[[Callable[[Context, Request, Inputs], Size]], None]:
    def enter(size: Callable[[Context, Request, Inputs], Size]) -> None:
        SIZES[stage] = size

    return enter


@cache
def _classifier(backbone: str, width: float, image_size: int, classes: int) -> Cost:
    from models.cost import classifier_cost

    return classifier_cost(backbone, width, image_size, classes)


def _images(inputs: Inputs) -> Counts:
    images = inputs["manifest"].images
    assert images is not None
    return images


def _checkpoint(cost: Cost, operations: float) -> Size:
    return Size(cost.parameters, 4 * cost.parameters, operations, cost=cost)


@_size_of("manifest")
def _(run: Context, request: Request, inputs: Inputs) -> Size:
    images = run.count(request.outside["sources"], request.settings["hold_out"])
    n = images.all + images.test
    return Size(n, 110 * n, images=images)


@_size_of("labels")
def _(run: Context, request: Request, inputs: Inputs) -> Size:
    images, wish = _images(inputs), request.settings
    n = images.labelled if wish["label_fraction"] is None else round(wish["label_fraction"] * images.labelled)
    n = n if wish["labels_per_class"] is None else wish["labels_per_class"] * images.classes
    return Size(n, 14 * n)


@_size_of("pretext")
def _(run: Context, request: Request, inputs: Inputs) -> Size:
    from models.cost import pretext_cost

    given = request.settings["pretext"]
    config: Any = methods("pretext")[given["method"]].model_validate(given)
    cost = pretext_cost(config, request.settings["image_size"])
    size = _checkpoint(cost, cost.step * _images(inputs).all * given["epochs"])
    size.images = _images(inputs)
    return size


@_size_of("codes")
def _(run: Context, request: Request, inputs: Inputs) -> Size:
    images, k = inputs["checkpoint"].images, run.config.cluster.k
    assert images is not None
    run.assume(f"codes: one head, and as many of them as cluster.k: {k:,}")
    return Size(images.all, 8 * images.all, width=k)


def _features(inputs: Inputs, request: Request, width: int, forward: float = 0.0) -> Size:
    images = _images(inputs)
    n = images.test if request.settings["part"] == "test" else images.all
    return Size(n, n * (4 * width + 8), n * forward, width=width)


@_size_of("embed")
def _(run: Context, request: Request, inputs: Inputs) -> Size:
    if "checkpoint" not in inputs:
        from models.cost import descriptor_width

        run.assume("descriptors are not counted")
        descriptor: Any = run.config.pretext
        return _features(inputs, request, descriptor_width(descriptor, request.settings["image_size"]))
    cost = inputs["checkpoint"].cost
    assert cost is not None
    layer = request.settings["layer"]
    if layer not in cost.widths:
        raise ConfigError(f"embed.layer = {layer}: the teacher has none; choose one of {', '.join(cost.widths)}")
    return _features(inputs, request, cost.widths[layer], cost.forward)


@_size_of("external")
def _(run: Context, request: Request, inputs: Inputs) -> Size:
    from data.external import ExternalFeatures

    return _features(inputs, request, ExternalFeatures(request.outside["features"]).width())


@_size_of("cluster")
def _(run: Context, request: Request, inputs: Inputs) -> Size:
    wish, features = request.settings, inputs["features"]
    n, d = min(wish["sample"] or features.rows, features.rows), wish["pca"] or features.width
    rounds = wish["iterations"] * wish["restarts"]
    return Size(wish["k"], wish["k"] * (4 * d + 12), 2.0 * n * d * wish["k"] * rounds, width=d)


@_size_of("assign")
def _(run: Context, request: Request, inputs: Inputs) -> Size:
    n, clusters = inputs["features"].rows, inputs["clusters"]
    return Size(n, 20 * n, 2.0 * n * clusters.width * clusters.rows, width=clusters.rows)


@_size_of("transfer")
def _(run: Context, request: Request, inputs: Inputs) -> Size:
    student, size = request.settings["student"], request.settings["image_size"]
    epochs = request.settings["transfer"]["epochs"]
    if "teacher" in inputs:
        from models.cost import transfer_cost

        config: Any = run.config
        cost = transfer_cost(config.transfer, student["backbone"], student["width"], size, config.pretext)
        return _checkpoint(cost, cost.step * _images(inputs).all * epochs)
    learned = inputs.get("assignments") or inputs["codes"]
    cost = _classifier(student["backbone"], student["width"], size, learned.width)
    return _checkpoint(cost, cost.step * learned.rows * epochs)


@_size_of("finetune")
def _(run: Context, request: Request, inputs: Inputs) -> Size:
    config, wish = run.config, request.settings["finetune"]
    of_teacher = request.settings["role"] == "teacher"
    network: Any = config.pretext if of_teacher else config.student
    cost = _classifier(network.backbone, network.width, request.settings["image_size"], _images(inputs).classes)
    tries = 1 + 0.25 * len(wish["learning_rates"])
    return _checkpoint(cost, cost.step * wish["steps"] * wish["batch_size"] * tries)


@_size_of("predict")
def _(run: Context, request: Request, inputs: Inputs) -> Size:
    images, cost = _images(inputs), inputs["checkpoint"].cost
    assert cost is not None
    n, classes = images.all, images.classes
    return Size(n, n * (4 * classes + 8), n * cost.forward * request.settings["views"], width=classes)


@_size_of("propagate")
def _(run: Context, request: Request, inputs: Inputs) -> Size:
    n, classes = inputs["features"].rows, inputs["probabilities"].width
    return Size(n, n * (4 * classes + 8), 2.0 * n * n * inputs["features"].width, width=classes)


@_size_of("distill")
def _(run: Context, request: Request, inputs: Inputs) -> Size:
    images, student = _images(inputs), request.settings["student"]
    cost = _classifier(student["backbone"], student["width"], request.settings["image_size"], images.classes)
    return _checkpoint(cost, cost.step * images.all * request.settings["distill"]["epochs"])


@_size_of("evaluate")
def _(run: Context, request: Request, inputs: Inputs) -> Size:
    images, cost = _images(inputs), inputs["checkpoint"].cost if "checkpoint" in inputs else None
    width = inputs["train"].width if "train" in inputs else 0
    return Size(7, 3e3, images.test * ((cost.forward if cost else 0.0) + 2.0 * images.train * width))


def _downstream(run: Context, request: Request, inputs: Inputs) -> Size:
    """Training further: the backbone at the photographs' size; heads are not counted."""
    wish, of_student = request.settings["training"], run.config.transfers
    network: Any = run.config.student if of_student or "checkpoint" not in inputs else run.config.pretext
    size = request.settings["image_size"]
    cost = _classifier(network.backbone, network.width, size, 2)
    area = (wish.get("side", size) / size) ** 2
    images = _images(inputs)
    passes = wish["steps"] * wish["batch_size"] * cost.step + images.test * cost.forward
    run.assume("detection, segmentation: the backbone alone; heads come on top")
    return Size(10, 3e3, passes * area)


for _name in ("detection", "segmentation", "multi_label"):
    SIZES[_name] = _downstream


@_size_of("layers")
def _(run: Context, request: Request, inputs: Inputs) -> Size:
    images, cost, wish = _images(inputs), inputs["checkpoint"].cost, request.settings
    assert cost is not None
    maps = len([name for name in cost.widths if name not in ("features", "logits")])
    probes = 6.0 * 9216 * 5 * images.classes * maps  # five rates, forward and backward
    return Size(maps, 3e3, images.labelled * wish["epochs"] * (cost.forward + probes))


@_size_of("nonlinear")
def _(run: Context, request: Request, inputs: Inputs) -> Size:
    images, cost, wish = _images(inputs), inputs["checkpoint"].cost, request.settings["nonlinear"]
    assert cost is not None
    trainings = max(1, len(wish["layers"]))
    return Size(1 + trainings, 3e3, 3 * cost.forward * images.labelled * wish["epochs"] * trainings)


@_size_of("stability")
def _(run: Context, request: Request, inputs: Inputs) -> Size:
    wish, given = request.settings, inputs["features"]
    d = min(wish["pca"] or given.width, given.width)
    return Size(2, 3e3, 2.0 * given.rows * wish["k"] * d * wish["iterations"] * wish["seeds"])


@_size_of("scores")
def _(run: Context, request: Request, inputs: Inputs) -> Size:
    return Size(sum(given.rows for given in inputs.values() if given.artifact.kind == "scores"), 5e3)


@_size_of("report")
def _(run: Context, request: Request, inputs: Inputs) -> Size:
    return Size(1, 1e6)
