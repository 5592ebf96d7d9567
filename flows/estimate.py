"""`run --dry-run`: every stage of a run with its inputs, sizes and cost, before anything is done.

What is already in the store is known where an earlier run listed the same sources; the store is not written to.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import ConfigError
from data.sources import open_source
from data.store import Store
from data.types import Artifact, Split
from flows.chain import Hooks, NotNeeded, Plan, chain
from flows.claims import resolved
from flows.claims.claim import Claim, Scale
from flows.phrases import duration
from tasks.config import Config, methods
from tasks.recall import Recall
from tasks.stage import Request

if TYPE_CHECKING:
    from models.cost import Cost

GPU, GPU_RATE = "one NVIDIA H100, 250 TFLOP/s reached (a quarter of its bf16 peak)", 250e12
CPU_SHARE = 0.25
"""Of a convolution's speed that trainings reach, with all that is done besides."""

PUBLISHED: dict[str, tuple[int, int, int, int]] = {
    "CIFAR10": (50_000, 0, 10_000, 10),
    "CIFAR100": (50_000, 0, 10_000, 100),
    "ImageNet": (1_281_167, 0, 50_000, 1000),
    "Imagenette": (9_469, 0, 3_925, 10),
    "STL10": (5_000, 100_000, 8_000, 10),
    "BCCD": (292, 0, 72, 3),
    "PennFudanPed": (170, 0, 0, 1),
}
"""Train, unlabelled and test images, classes, as publishers state them of torchvision's data sets and claims' photographs."""

HELD_OUT = 0.2
"""Share of train that becomes test where there is no test source."""


@dataclass(frozen=True)
class Row:
    """A stage to come.

    Attributes:
        stage: its label.
        kind: of its artifact.
        reads: labels of the stages it reads.
        rows: of the artifact's table; for a checkpoint its parameters.
        size: of the artifact, bytes, about.
        operations: floating point operations.
        in_store: whether it is there already; None if that can't be known.
    """

    stage: str
    kind: str
    reads: tuple[str, ...]
    rows: int
    size: float
    operations: float
    in_store: bool | None


@dataclass(frozen=True)
class Estimate:
    """A run to come; `cpu_rate` is what this CPU reaches, operations a second."""

    recipe: str
    rows: list[Row]
    not_needed: list[NotNeeded]
    assumptions: list[str]
    cpu_rate: float

    def as_json(self) -> dict[str, Any]:
        """JSON values."""
        return {**asdict(self), "hours": {"gpu": self._hours(GPU_RATE), "cpu": self._hours(self.cpu_rate)}}

    def as_text(self) -> str:
        """A table, its sums and what they assume."""
        head = ("stage", "makes", "rows", "size", "operations", "on GPU", "on CPU", "in store", "reads")
        known = {True: "yes", False: "no", None: "?"}
        lines = [head] + [
            (
                row.stage,
                row.kind,
                f"{row.rows:,}",
                _bytes(row.size),
                f"{row.operations:.1e}",
                duration(row.operations / GPU_RATE),
                duration(row.operations / self.cpu_rate),
                known[row.in_store],
                ", ".join(row.reads),
            )
            for row in self.rows
        ]
        widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
        right = {2, 3, 4, 5, 6}
        table = [
            "  ".join(
                c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))
            )
            for line in lines
        ]
        total = f"to compute: {duration(3600 * self._hours(GPU_RATE))} on a GPU, or {duration(3600 * self._hours(self.cpu_rate))} on this CPU; to store: {_bytes(sum(row.size for row in self.rows if not row.in_store))}"  # fmt: skip
        gone = [f"{stage.stage}: not needed by {stage.because}" for stage in self.not_needed]
        return "\n".join([*(line.rstrip() for line in table), *gone, "", total, *(f"- {text}" for text in self.assumptions)])  # fmt: skip

    def _hours(self, rate: float) -> float:
        return sum(row.operations for row in self.rows if not row.in_store) / rate / 3600


@dataclass(frozen=True)
class _Images:
    """How many images a manifest holds."""

    train: int
    unlabelled: int
    test: int
    labelled: int
    test_labelled: int
    classes: int

    @property
    def all(self) -> int:
        return self.train + self.unlabelled


@dataclass(frozen=True)
class _Planned:
    """A stage's artifact as far as it is known beforehand."""

    label: str
    artifact: Artifact
    known: bool
    rows: int
    images: _Images | None = None
    cost: Cost | None = None
    width: int = 0


@dataclass
class _Size:
    rows: int
    bytes: float
    operations: float = 0.0
    images: _Images | None = None
    cost: Cost | None = None
    width: int = 0


@dataclass
class _Estimator:
    config: Config
    store: Store | None
    rows: list[Row] = field(default_factory=list)
    not_needed: list[NotNeeded] = field(default_factory=list)
    assumptions: list[str] = field(default_factory=list)

    def step(self, label: str, plan: Plan, /, *, after: Any = None, **inputs: _Planned) -> _Planned:
        request = plan(**{name: given.artifact for name, given in inputs.items()})
        assert isinstance(request, Request)
        size = _SIZES[request.stage](self, request, inputs)
        artifact, known = Artifact(kind=request.kind, fingerprint=f"to-come-{label}"), False
        if request.stage == "manifest":
            found = self._manifest(label, request)
            artifact, known = (found, True) if found is not None else (artifact, False)
        elif self.store is not None and all(given.known for given in inputs.values()):
            recalled = Recall(self.store, request).made() if request.by_content else request.artifact(self.store)
            artifact, known = (recalled, True) if recalled is not None else (artifact, False)
        there = (
            self.store.has(artifact) if known and self.store is not None else None if self._any_manifest() else False
        )
        reads = tuple(given.label for given in inputs.values())
        self.rows.append(Row(label, request.kind, reads, size.rows, size.bytes, size.operations, there))
        return _Planned(label, artifact, known, size.rows, size.images, size.cost, size.width)

    def look(self, manifest: _Planned) -> dict[str, Any]:
        images = manifest.images
        assert images is not None
        counts = {
            "train": images.all,
            "unlabelled": 0,
            "labelled": images.labelled,
            "test_labelled": images.test_labelled,
        }
        return {"counts": counts}

    def count(self, sources: dict[str, str | None], hold_out: bool) -> _Images:
        train, labelled, classes = self._count(sources["train"], "train")
        unlabelled, _, _ = self._count(sources["unlabelled"], "unlabelled")
        test, test_labelled, _ = self._count(sources["test"], "test")
        if hold_out:
            test, test_labelled = round(HELD_OUT * train), round(HELD_OUT * labelled)
            train, labelled = train - test, labelled - test_labelled
        return _Images(train, unlabelled, test, labelled, test_labelled, classes)

    def _count(self, source: str | None, role: Split) -> tuple[int, int, int]:
        """Images, labelled ones, classes."""
        if source is None:
            return 0, 0, 0
        kind, _, place = source.partition(":")
        name = place.partition("?")[0]
        if name in PUBLISHED and (kind == "torchvision" or (kind == "voc" and not Path(place).exists())):
            train, unlabelled, test, classes = PUBLISHED[name]
            self._assume(f"{source}: as published, {train:,} train, {unlabelled:,} unlabelled and {test:,} test images")
            n = {"train": train, "unlabelled": unlabelled or train, "test": test}[role]
            return n, n, classes
        opened = open_source(source, role)
        entries = opened.entries()
        return len(entries), sum(e.label is not None for e in entries), len(opened.classes or ())

    def _assume(self, text: str) -> None:
        if text not in self.assumptions:
            self.assumptions.append(text)

    def _any_manifest(self) -> bool:
        return self.store is not None and any((self.store.root / "artifacts" / "manifest").glob("*/meta.json"))

    def _manifest(self, label: str, request: Request) -> Artifact | None:
        """The manifest that the newest run with these sources found, under the same label."""
        if self.store is None:
            return None
        wanted = request.outside["sources"]
        records = sorted((self.store.root / "runs").glob("*/run.json"), key=lambda path: -path.stat().st_mtime)
        for record in (json.loads(path.read_text()) for path in records):
            config = record["config"]
            places = {role: config["data"][role] for role in wanted}
            if label == "manifest-voc":
                places = wanted | {"train": config["evaluate"].get("voc")}
            elif label != "manifest":  # of cluster.data or assign.data
                section = label.removeprefix("manifest-")
                places = {
                    "train": config[section]["data"] or config["cluster"]["data"],
                    "unlabelled": None,
                    "test": None,
                }
            rows = [row for row in record["stages"] if row["stage"] == label]
            if rows and places == wanted and config["seed"] == request.seed:
                self._assume(f"the images are those that run {record['name']} found")
                return Artifact(kind="manifest", fingerprint=rows[0]["fingerprint"])
        return None


def estimate(config: Config) -> Estimate:
    """Lay the chain out without doing anything.

    Raises:
        DataError: a source can't be listed and its size is not published either.
        ConfigError: a network can't be built for the images.
    """
    from models.cost import convolution_rate

    root = Path(config.store).expanduser()
    estimator = _Estimator(config, Store(root) if (root / "artifacts").exists() else None)
    chain(config, Hooks(estimator.step, estimator.look, estimator.not_needed.append))
    estimator._assume(f"GPU: {GPU}")
    precision, rate = convolution_rate(config.compute.precision)
    estimator._assume(f"CPU: this machine's, {CPU_SHARE * rate / 1e9:.0f} GFLOP/s reached (a quarter of a convolution's in {precision}, just measured)")  # fmt: skip
    estimator._assume("reading, decoding and augmenting images is not counted; vectors are float32")
    return Estimate(config.recipe, estimator.rows, estimator.not_needed, estimator.assumptions, CPU_SHARE * rate)


def estimate_claims(
    claims: list[Claim], scale: Scale, seeds: int, sources: dict[str, str], store: str
) -> list[dict[str, Any]]:
    """What claims cost: a row each of claim, runs, gpu_hours and cpu_hours. Every run is counted as if it were alone.

    Args:
        claims: to be put to the test.
        scale: of the trainings.
        seeds: runs an arm.
        sources: name of images -> where they are.
        store: whose artifacts need not be made.
    """
    rows = []
    for claim in claims:
        asked = [resolved(claim, arm, scale, sources).model_copy(update={"recipe": claim.name, "store": store}) for arm in claim.arms]  # fmt: skip
        configs = {config.model_dump_json(): config for config in asked}.values()  # arms may be scores of one run
        found = [estimate(config).as_json()["hours"] for config in configs]
        hours = {f"{name}_hours": seeds * sum(each[name] for each in found) for name in ("gpu", "cpu")}
        rows.append({"claim": claim.name, "runs": seeds * len(configs), **hours})
    return rows


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


Inputs = dict[str, _Planned]
_SIZES: dict[str, Callable[[_Estimator, Request, Inputs], _Size]] = {}


def _size_of(stage: str) -> Callable[[Callable[[_Estimator, Request, Inputs], _Size]], None]:
    def enter(size: Callable[[_Estimator, Request, Inputs], _Size]) -> None:
        _SIZES[stage] = size

    return enter


@cache
def _classifier(backbone: str, width: float, image_size: int, classes: int) -> Cost:
    from models.cost import classifier_cost

    return classifier_cost(backbone, width, image_size, classes)


def _images(inputs: Inputs) -> _Images:
    images = inputs["manifest"].images
    assert images is not None
    return images


def _checkpoint(cost: Cost, operations: float) -> _Size:
    return _Size(cost.parameters, 4 * cost.parameters, operations, cost=cost)


@_size_of("manifest")
def _(estimator: _Estimator, request: Request, inputs: Inputs) -> _Size:
    images = estimator.count(request.outside["sources"], request.settings["hold_out"])
    n = images.all + images.test
    return _Size(n, 110 * n, images=images)


@_size_of("labels")
def _(estimator: _Estimator, request: Request, inputs: Inputs) -> _Size:
    images, wish = _images(inputs), request.settings
    n = images.labelled if wish["label_fraction"] is None else round(wish["label_fraction"] * images.labelled)
    n = n if wish["labels_per_class"] is None else wish["labels_per_class"] * images.classes
    return _Size(n, 14 * n)


@_size_of("pretext")
def _(estimator: _Estimator, request: Request, inputs: Inputs) -> _Size:
    from models.cost import pretext_cost

    given = request.settings["pretext"]
    config: Any = methods("pretext")[given["method"]].model_validate(given)
    cost = pretext_cost(config, request.settings["image_size"])
    size = _checkpoint(cost, cost.step * _images(inputs).all * given["epochs"])
    size.images = _images(inputs)
    return size


@_size_of("codes")
def _(estimator: _Estimator, request: Request, inputs: Inputs) -> _Size:
    images, k = inputs["checkpoint"].images, estimator.config.cluster.k
    assert images is not None
    estimator._assume(f"codes: one head, and as many of them as cluster.k: {k:,}")
    return _Size(images.all, 8 * images.all, width=k)


def _features(inputs: Inputs, request: Request, width: int, forward: float = 0.0) -> _Size:
    images = _images(inputs)
    n = images.test if request.settings["part"] == "test" else images.all
    return _Size(n, n * (4 * width + 8), n * forward, width=width)


@_size_of("embed")
def _(estimator: _Estimator, request: Request, inputs: Inputs) -> _Size:
    if "checkpoint" not in inputs:
        from models.cost import descriptor_width

        estimator._assume("descriptors are not counted")
        descriptor: Any = estimator.config.pretext
        return _features(inputs, request, descriptor_width(descriptor, request.settings["image_size"]))
    cost = inputs["checkpoint"].cost
    assert cost is not None
    layer = request.settings["layer"]
    if layer not in cost.widths:
        raise ConfigError(f"embed.layer = {layer}: the teacher has none; choose one of {', '.join(cost.widths)}")
    return _features(inputs, request, cost.widths[layer], cost.forward)


@_size_of("external")
def _(estimator: _Estimator, request: Request, inputs: Inputs) -> _Size:
    from data.external import ExternalFeatures

    return _features(inputs, request, ExternalFeatures(request.outside["features"]).width())


@_size_of("cluster")
def _(estimator: _Estimator, request: Request, inputs: Inputs) -> _Size:
    wish, features = request.settings, inputs["features"]
    n, d = min(wish["sample"] or features.rows, features.rows), wish["pca"] or features.width
    rounds = wish["iterations"] * wish["restarts"]
    return _Size(wish["k"], wish["k"] * (4 * d + 12), 2.0 * n * d * wish["k"] * rounds, width=d)


@_size_of("assign")
def _(estimator: _Estimator, request: Request, inputs: Inputs) -> _Size:
    n, clusters = inputs["features"].rows, inputs["clusters"]
    return _Size(n, 20 * n, 2.0 * n * clusters.width * clusters.rows, width=clusters.rows)


@_size_of("transfer")
def _(estimator: _Estimator, request: Request, inputs: Inputs) -> _Size:
    student, size = request.settings["student"], request.settings["image_size"]
    epochs = request.settings["transfer"]["epochs"]
    if "teacher" in inputs:
        from models.cost import transfer_cost

        config: Any = estimator.config
        cost = transfer_cost(config.transfer, student["backbone"], student["width"], size, config.pretext)
        return _checkpoint(cost, cost.step * _images(inputs).all * epochs)
    learned = inputs.get("assignments") or inputs["codes"]
    cost = _classifier(student["backbone"], student["width"], size, learned.width)
    return _checkpoint(cost, cost.step * learned.rows * epochs)


@_size_of("finetune")
def _(estimator: _Estimator, request: Request, inputs: Inputs) -> _Size:
    config, wish = estimator.config, request.settings["finetune"]
    of_teacher = request.settings["role"] == "teacher"
    network: Any = config.pretext if of_teacher else config.student
    cost = _classifier(network.backbone, network.width, request.settings["image_size"], _images(inputs).classes)
    tries = 1 + 0.25 * len(wish["learning_rates"])
    return _checkpoint(cost, cost.step * wish["steps"] * wish["batch_size"] * tries)


@_size_of("predict")
def _(estimator: _Estimator, request: Request, inputs: Inputs) -> _Size:
    images, cost = _images(inputs), inputs["checkpoint"].cost
    assert cost is not None
    n, classes = images.all, images.classes
    return _Size(n, n * (4 * classes + 8), n * cost.forward * request.settings["views"], width=classes)


@_size_of("propagate")
def _(estimator: _Estimator, request: Request, inputs: Inputs) -> _Size:
    n, classes = inputs["features"].rows, inputs["probabilities"].width
    return _Size(n, n * (4 * classes + 8), 2.0 * n * n * inputs["features"].width, width=classes)


@_size_of("distill")
def _(estimator: _Estimator, request: Request, inputs: Inputs) -> _Size:
    images, student = _images(inputs), request.settings["student"]
    cost = _classifier(student["backbone"], student["width"], request.settings["image_size"], images.classes)
    return _checkpoint(cost, cost.step * images.all * request.settings["distill"]["epochs"])


@_size_of("evaluate")
def _(estimator: _Estimator, request: Request, inputs: Inputs) -> _Size:
    images, cost = _images(inputs), inputs["checkpoint"].cost if "checkpoint" in inputs else None
    width = inputs["train"].width if "train" in inputs else 0
    return _Size(7, 3e3, images.test * ((cost.forward if cost else 0.0) + 2.0 * images.train * width))


def _downstream(estimator: _Estimator, request: Request, inputs: Inputs) -> _Size:
    """Training further: the backbone at the photographs' size; heads are not counted."""
    wish, of_student = request.settings["training"], estimator.config.transfers
    network: Any = estimator.config.student if of_student or "checkpoint" not in inputs else estimator.config.pretext
    size = request.settings["image_size"]
    cost = _classifier(network.backbone, network.width, size, 2)
    area = (wish.get("side", size) / size) ** 2
    images = _images(inputs)
    passes = wish["steps"] * wish["batch_size"] * cost.step + images.test * cost.forward
    estimator._assume("detection, segmentation: the backbone alone; heads come on top")
    return _Size(10, 3e3, passes * area)


for _name in ("detection", "segmentation", "multi_label"):
    _SIZES[_name] = _downstream


@_size_of("layers")
def _(estimator: _Estimator, request: Request, inputs: Inputs) -> _Size:
    images, cost, wish = _images(inputs), inputs["checkpoint"].cost, request.settings
    assert cost is not None
    maps = len([name for name in cost.widths if name not in ("features", "logits")])
    probes = 6.0 * 9216 * 5 * images.classes * maps  # five rates, forward and backward
    return _Size(maps, 3e3, images.labelled * wish["epochs"] * (cost.forward + probes))


@_size_of("nonlinear")
def _(estimator: _Estimator, request: Request, inputs: Inputs) -> _Size:
    images, cost, wish = _images(inputs), inputs["checkpoint"].cost, request.settings["nonlinear"]
    assert cost is not None
    trainings = max(1, len(wish["layers"]))
    return _Size(1 + trainings, 3e3, 3 * cost.forward * images.labelled * wish["epochs"] * trainings)


@_size_of("stability")
def _(estimator: _Estimator, request: Request, inputs: Inputs) -> _Size:
    wish, given = request.settings, inputs["features"]
    d = min(wish["pca"] or given.width, given.width)
    return _Size(2, 3e3, 2.0 * given.rows * wish["k"] * d * wish["iterations"] * wish["seeds"])


@_size_of("scores")
def _(estimator: _Estimator, request: Request, inputs: Inputs) -> _Size:
    return _Size(sum(given.rows for given in inputs.values() if given.artifact.kind == "scores"), 5e3)


@_size_of("report")
def _(estimator: _Estimator, request: Request, inputs: Inputs) -> _Size:
    return _Size(1, 1e6)
