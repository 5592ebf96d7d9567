"""`run --dry-run`: every stage of a run with its inputs, sizes and cost, before anything is done.

What is already in the store is known where an earlier run listed the same sources; the store is not written to.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from data.sources import open_source
from data.store import Store
from data.types import Artifact, Split
from flows.chain import Hooks, NotNeeded, Plan, chain
from flows.claims import resolved
from flows.claims.claim import Claim, Scale
from flows.phrases import duration
from flows.stage_sizes import SIZES, Counts, Planned
from tasks.config import Config
from tasks.recall import Recall
from tasks.stage import Request

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


@dataclass
class _Estimator:
    config: Config
    store: Store | None
    rows: list[Row] = field(default_factory=list)
    not_needed: list[NotNeeded] = field(default_factory=list)
    assumptions: list[str] = field(default_factory=list)

    def step(self, label: str, plan: Plan, /, *, after: Any = None, **inputs: Planned) -> Planned:
        request = plan(**{name: given.artifact for name, given in inputs.items()})
        assert isinstance(request, Request)
        size = SIZES[request.stage](self, request, inputs)
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
        return Planned(label, artifact, known, size.rows, size.images, size.cost, size.width)

    def look(self, manifest: Planned) -> dict[str, Any]:
        images = manifest.images
        assert images is not None
        counts = {
            "train": images.all,
            "unlabelled": 0,
            "labelled": images.labelled,
            "test_labelled": images.test_labelled,
        }
        return {"counts": counts}

    def count(self, sources: dict[str, str | None], hold_out: bool) -> Counts:
        train, labelled, classes = self._count(sources["train"], "train")
        unlabelled, _, _ = self._count(sources["unlabelled"], "unlabelled")
        test, test_labelled, _ = self._count(sources["test"], "test")
        if hold_out:
            test, test_labelled = round(HELD_OUT * train), round(HELD_OUT * labelled)
            train, labelled = train - test, labelled - test_labelled
        return Counts(train, unlabelled, test, labelled, test_labelled, classes)

    def _count(self, source: str | None, role: Split) -> tuple[int, int, int]:
        """Images, labelled ones, classes."""
        if source is None:
            return 0, 0, 0
        kind, _, place = source.partition(":")
        name = place.partition("?")[0]
        if name in PUBLISHED and (kind == "torchvision" or (kind == "voc" and not Path(place).exists())):
            train, unlabelled, test, classes = PUBLISHED[name]
            self.assume(f"{source}: as published, {train:,} train, {unlabelled:,} unlabelled and {test:,} test images")
            n = {"train": train, "unlabelled": unlabelled or train, "test": test}[role]
            return n, n, classes
        opened = open_source(source, role)
        entries = opened.entries()
        return len(entries), sum(e.label is not None for e in entries), len(opened.classes or ())

    def assume(self, text: str) -> None:
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
                self.assume(f"the images are those that run {record['name']} found")
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
    estimator.assume(f"GPU: {GPU}")
    precision, rate = convolution_rate(config.compute.precision)
    estimator.assume(f"CPU: this machine's, {CPU_SHARE * rate / 1e9:.0f} GFLOP/s reached (a quarter of a convolution's in {precision}, just measured)")  # fmt: skip
    estimator.assume("reading, decoding and augmenting images is not counted; vectors are float32")
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
