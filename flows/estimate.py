"""`run --dry-run`: list every stage of a run with its inputs, size and cost, without running anything.

The dry run never writes to the store. It can tell which artifacts are in the store if an earlier run listed
the same sources.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.sources import open_source
from data.store import Store, digest
from data.types import Artifact, Split
from flows.chain import chain
from flows.claims import resolved
from flows.claims.claim import Claim, Scale
from flows.layout import Hooks, Plan
from flows.phrases import storage
from flows.records import records
from tasks.config import Config
from tasks.found import stage_module
from tasks.phrases import duration, under_load
from tasks.recall import Recall
from tasks.size import Counts, Planned, Sample, Size, chores, imports, products
from tasks.stage import NotNeeded, Process, Request

if TYPE_CHECKING:
    from collections.abc import Iterator

    from data.manifest import Survey
    from models.pace import Pace
    from models.work import Portion

GPU, GPU_RATE = "GPU: one NVIDIA H100, 250 TFLOP/s reached (a quarter of its bf16 peak)", 250e12
WORTH_A_GPU = 60.0
"""The text shows times on a GPU if the run needs so many seconds of it. They count operations only. In
shorter runs, starting programs, reading images and launching kernels take longer."""
START, STAGE = 8.0, 0.1
"""Seconds of a run's start with Prefect's server, and of each stage besides its build.

They were measured on the machine of `models.work.IMPORTS` and `models.trials.CHORES`."""
CHILDREN: dict[Process, float] = {"train": 4.5, "plain": 3.0}
"""Seconds in which a child process starts, with its imports, on the same machine."""

PUBLISHED: dict[str, tuple[int, int, int, int]] = {
    "CIFAR10": (50_000, 0, 10_000, 10),
    "CIFAR100": (50_000, 0, 10_000, 100),
    "ImageNet": (1_281_167, 0, 50_000, 1000),
    "Imagenette": (9_469, 0, 3_925, 10),
    "STL10": (5_000, 100_000, 8_000, 10),
    "BCCD": (292, 0, 72, 3),
    "PennFudanPed": (170, 0, 0, 1),
}
"""Published numbers of train, unlabelled and test images, and of classes, per data set."""


@dataclass(frozen=True)
class PlannedStage:
    """A stage of the dry run.

    Attributes:
        stage: its label.
        kind: kind of its artifact.
        reads: labels of the stages that it reads.
        rows: rows of the artifact's table; for a checkpoint the number of parameters.
        size: approximate size of the artifact, bytes.
        operations: floating point operations.
        seconds: time on this machine's CPU.
        in_store: whether the store already has the artifact; None if this is unknown.
    """

    stage: str
    kind: str
    reads: tuple[str, ...]
    rows: int
    size: float
    operations: float
    seconds: float
    in_store: bool | None


@dataclass(frozen=True)
class Estimate:
    """The result of a dry run.

    Attributes:
        recipe: name of the recipe.
        rows: the stages.
        not_needed: stages that the run leaves out.
        assumptions: sentences about what the estimate assumes.
        starting: seconds on this machine's CPU before the first stage.
        understood: sentences about what was understood of the images.
    """

    recipe: str
    rows: list[PlannedStage]
    not_needed: list[NotNeeded]
    assumptions: list[str]
    starting: float
    understood: list[str] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """How long the run takes on this machine's CPU, from the command to its end."""
        return self.starting + sum(row.seconds for row in self._to_compute())

    @property
    def gpu_seconds(self) -> float:
        """How long the operations take on a GPU. Nothing else is counted."""
        return sum(row.operations for row in self._to_compute()) / GPU_RATE

    def as_json(self) -> dict[str, Any]:
        """The estimate as JSON values, with the total hours on a GPU and on this machine's CPU."""
        return {**asdict(self), "hours": {"gpu": self.gpu_seconds / 3600, "cpu": self.seconds / 3600}}

    def as_text(self) -> str:
        """The estimate as text: a table, its totals and the assumptions."""
        gpu = self.gpu_seconds >= WORTH_A_GPU
        head = ("stage", "makes", "rows", "size", "operations", *(["on GPU"] if gpu else []), "on CPU")
        known = {True: "yes", False: "no", None: "?"}
        lines = [(*head, "in store", "reads")] + [
            (
                row.stage,
                row.kind,
                f"{row.rows:,}",
                storage(row.size),
                f"{row.operations:.1e}",
                *([duration(row.operations / GPU_RATE)] if gpu else []),
                duration(row.seconds),
                known[row.in_store],
                ", ".join(row.reads),
            )
            for row in self.rows
        ]
        widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        right = range(2, len(head))
        table = [
            "  ".join(
                c.rjust(w) if i in right else c.ljust(w)
                for i, (c, w) in enumerate(zip(line, widths, strict=True))
            )
            for line in lines
        ]
        new = storage(sum(row.size for row in self._to_compute()))
        total = (
            f"to compute: {f'{duration(self.gpu_seconds)} on a GPU, or ' if gpu else ''}"
            f"{duration(self.seconds)} on this CPU, of which {duration(self.starting)} to start; "
            f"to store: {new}"
        )
        gone = [f"{stage.stage}: left out because {stage.because}" for stage in self.not_needed]
        notes = [f"- {text}" for text in self.assumptions if gpu or text != GPU]
        rows = [*(line.rstrip() for line in table), *gone, "", total, *notes]
        return "\n".join([*self.understood, "", *rows] if self.understood else rows)

    def _to_compute(self) -> list[PlannedStage]:
        return [row for row in self.rows if not row.in_store]


@dataclass(frozen=True)
class Looked:
    """What was read of the images of a manifest.

    Attributes:
        survey: what was found.
        listing: seconds that it took besides reading the images.
    """

    survey: Survey
    listing: float


@dataclass
class _Estimator:
    config: Config
    store: Store | None
    seconds: float | None
    pace: Pace
    surveys: dict[str, Looked]
    rows: list[tuple[PlannedStage, Process, Size]] = field(default_factory=list)
    made: list[Artifact] = field(default_factory=list)
    """The artifact of each row. Equal ones are made once, also by runs that share a store."""
    not_needed: list[NotNeeded] = field(default_factory=list)
    assumptions: list[str] = field(default_factory=list)
    understood: list[str] = field(default_factory=list)
    decoding: float = 0.0
    listing: float = 0.0
    _seen: dict[str, Any] = field(default_factory=dict)
    _leaked: int = 0
    _first: tuple[Request, Survey] | None = None

    def step(self, label: str, plan: Plan, /, *, after: Any = None, **inputs: Planned) -> Planned:
        request = plan(**{name: given.artifact for name, given in inputs.items()})
        assert isinstance(request, Request)
        name = f"to-come-{digest(request.model_dump(mode='json'))}"
        artifact, known = Artifact(kind=request.kind, fingerprint=name), False
        if request.stage == "manifest":
            found = self._manifest(label, request)
            artifact, known = (found, True) if found is not None else (artifact, False)
        elif self.store is not None and all(given.known for given in inputs.values()):
            recalled = (
                Recall(self.store, request).made() if request.by_content else request.artifact(self.store)
            )
            artifact, known = (recalled, True) if recalled is not None else (artifact, False)
        there = (
            self.store.has(artifact)
            if known and self.store is not None
            else None
            if self._any_manifest()
            else False
        )
        meta = self.store.meta(artifact) if there and self.store is not None else None
        if meta is not None and request.kind == "plan":
            # The run follows this plan. A new one might refuse the minutes that it was made for.
            size = Size(meta["rows"], 3e3, meta=meta)
        else:
            size = self._size(request, inputs)
        reads = tuple(dict.fromkeys(given.label for given in inputs.values()))
        row = PlannedStage(
            label, request.kind, reads, size.rows, size.bytes, size.operations, size.seconds, there
        )
        self.rows.append((row, request.process, size))
        self.made.append(artifact)
        known_meta = size.meta if meta is None else meta
        return Planned(label, artifact, known, size.rows, size.images, size.cost, size.width, known_meta)

    def _size(self, request: Request, inputs: dict[str, Planned]) -> Size:
        """Call the `size` function of the stage's file. If there is none, the stage is not counted."""
        size = getattr(stage_module(request.stage), "size", None)
        if size is None:
            self.assume(f"{request.stage}: its file has no function `size`, so it is not counted")
            return Size(0, 0.0)
        found: Size = size(self, request, inputs)
        return found

    @property
    def seen(self) -> dict[str, Any]:
        found: dict[str, Any] = self._seen.get("understood", {})
        return found

    def follow(self, config: Config, plan: Mapping[str, Any]) -> None:
        self.config = config
        self.understood += [f"plan: {line}" for line in plan["because"]]

    def look(self, made: Planned) -> Mapping[str, Any]:
        images = made.images
        if images is None:
            assert made.meta is not None, f"{made.label}: a dry run knows nothing of its content"
            return made.meta
        counts = {
            "train": images.train,
            "unlabelled": images.unlabelled,
            "test": images.test,
            "labelled": images.labelled,
            "test_labelled": images.test_labelled,
            "leaked": self._leaked,
        }
        return {"counts": counts, **self._seen}

    def count(self, request: Request) -> Counts:
        sources, hold_out = request.outside["sources"], request.settings["hold_out"]
        if not any(self._published(source) for source in sources.values()):
            return self._survey(request)
        train, labelled, classes = self._count(sources["train"], "train")
        unlabelled, _, _ = self._count(sources["unlabelled"], "unlabelled")
        test, test_labelled, _ = self._count(sources["test"], "test")
        if hold_out:
            from data.held_out import HELD_OUT

            test, test_labelled = round(HELD_OUT * train), round(HELD_OUT * labelled)
            train, labelled = train - test, labelled - test_labelled
        return Counts(train, unlabelled, test, labelled, test_labelled, classes)

    def _survey(self, request: Request) -> Counts:
        """List the sources, and read some of the images."""
        from data.manifest import survey
        from data.reading import recorded_in

        where = request.outside["sources"]
        asked = [where, *(request.outside[name] for name in ("labels", "reading", "max_rejected"))]
        key = json.dumps([self.config.seed, request.settings["hold_out"], *asked], sort_keys=True)
        if key not in self.surveys:
            began = time.perf_counter()
            read = survey(
                where["train"],
                where["test"],
                where["unlabelled"],
                seed=self.config.seed,
                max_rejected=request.outside["max_rejected"],
                hold_out=request.settings["hold_out"],
                labels=request.outside["labels"],
                reading=recorded_in(request.outside["reading"], request.outside["reading"]["max_pixels"]),
                seconds=self.seconds,
            )
            took = time.perf_counter() - began
            self.surveys[key] = Looked(read, max(0.0, took - read.read * read.seconds))
        found, self.listing = self.surveys[key].survey, self.surveys[key].listing
        made = found.manifest
        n = made.counts
        if found.read < n["listed"]:
            self.assume(
                f"{found.read:,} of {n['listed']:,} images were read; the others are taken to be readable "
                "(--dry-run=full reads all)"
            )
        if not self._seen:  # the run's own images come first
            self.decoding = found.seconds
            self._leaked = n.get("leaked", 0)
            self._first = request, found
            self._seen = {"understood": made.understood, "guesses": made.guesses, "notes": made.notes}
        return Counts(
            n["train"], n["unlabelled"], n["test"], n["labelled"], n["test_labelled"], len(made.classes or ())
        )

    def sample(self, size: int, most: int) -> Sample | None:
        """See `Context`. It is the sample that the run looks at, unless reading it takes too long."""
        if self._first is None:
            return None
        import numpy as np

        from data.draws import key, permutation
        from data.manifest import open_sources
        from data.preprocessing import Preprocessing
        from data.reading import recorded_in
        from data.squares import read_some
        from data.tables import column

        request, found = self._first
        where, made = request.outside["sources"], found.manifest
        split, uri = (column(made.images, name).astype(str) for name in ("split", "uri"))
        usable = np.flatnonzero(split != "test")
        chosen = np.sort(usable[permutation(key(self.config.seed, "look"), len(usable))[:most]])
        rule = Preprocessing(
            size, (), (), reading=recorded_in(made.reading, request.outside["reading"]["max_pixels"])
        )
        until = float("inf") if self.seconds is None else time.monotonic() + self.seconds
        read: dict[tuple[str, str], Any] = {}
        opened = open_sources(
            where["train"], where["test"], where["unlabelled"], hold_out=request.settings["hold_out"]
        )
        roles: tuple[Split, ...] = ("train", "unlabelled")
        for role in roles:
            mine = set(uri[chosen[split[chosen] == role]])
            if mine:
                squares = read_some(opened[role], mine, rule, until)
                read |= {(role, name): pixels for name, pixels in squares.items()}
        pixels = [read[name] for name in zip(split[chosen], uri[chosen], strict=True) if name in read]
        shorter = np.minimum(column(made.images, "width"), column(made.images, "height"))[usable]
        if not pixels or not shorter.any():
            return None
        return Sample(np.stack(pixels), int(np.median(shorter[shorter > 0])))

    def _published(self, source: str | None) -> bool:
        """Whether only the published size of a data set is known, because its images are not here."""
        kind, _, place = (source or "").partition(":")
        name = place.partition("?")[0]
        return name in PUBLISHED and (
            kind == "torchvision" or (kind == "voc" and not Path(place).expanduser().exists())
        )

    def _count(self, source: str | None, role: Split) -> tuple[int, int, int]:
        """The numbers of images, of labelled images and of classes."""
        if source is None:
            return 0, 0, 0
        if self._published(source):
            name = source.partition(":")[2].partition("?")[0]
            train, unlabelled, test, classes = PUBLISHED[name]
            self.assume(
                f"{source}: {train:,} train, {unlabelled:,} unlabelled and {test:,} test images, as published"
            )
            n = {"train": train, "unlabelled": unlabelled or train, "test": test}[role]
            return n, n, classes
        opened = open_source(source, role)
        entries = opened.entries()
        return len(entries), sum(e.label is not None for e in entries), len(opened.classes or ())

    def work(self) -> list[Portion]:
        """The work that is left to do, with that of starting the run."""
        left = [portion for row, portions, _ in self._worked() if not row.in_store for portion in portions]
        return [imports(START), *left]

    def _worked(self) -> Iterator[tuple[PlannedStage, list[Portion], float]]:
        """Each stage with its work and with further seconds. The first one of a process also starts it."""
        started: set[Process] = set()
        for row, process, size in self.rows:
            portions = [*_portions(size), chores(STAGE)]
            if not row.in_store and process not in started:
                started.add(process)
                portions.append(imports(CHILDREN[process]))
            yield row, portions, size.seconds

    def priced(self, pace: Pace, *, alone: bool = False) -> Estimate:
        """The estimate, at a pace that has measured `work`.

        Args:
            pace: the pace.
            alone: whether the time that other programs took while it was measured is left out.
        """
        seconds = pace.alone if alone else pace.seconds
        rows, guessed = [], 0.0
        for row, portions, more in self._worked():
            rows.append(replace(row, seconds=more + sum(map(seconds, portions))))
            if not row.in_store:
                guessed += sum(seconds(each) for each in portions if not pace.measured(each.work))
        if guessed:
            self.assume(
                f"CPU: {duration(guessed)} of it are not measured but estimated from operations, at the pace "
                "of the most similar work that was measured"
            )
        starting = seconds(imports(START))
        return Estimate(
            self.config.recipe, rows, self.not_needed, self.assumptions, starting, self.understood
        )

    def assume(self, text: str) -> None:
        if text not in self.assumptions:
            self.assumptions.append(text)

    def _any_manifest(self) -> bool:
        return self.store is not None and any(
            (self.store.root / "artifacts" / "manifest").glob("*/meta.json")
        )

    def _manifest(self, label: str, request: Request) -> Artifact | None:
        """The manifest of the newest run that listed the same sources under the same label, or None."""
        if self.store is None:
            return None
        wanted = request.outside["sources"]
        for _, record in records(self.store):
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
                self.assume(f"the images have not changed since run {record['name']} listed them")
                return Artifact(kind="manifest", fingerprint=rows[0]["fingerprint"])
        return None


def estimate(
    config: Config,
    *,
    seconds: float | None = 5.0,
    pace: Pace | None = None,
    surveys: dict[str, Looked] | None = None,
) -> Estimate:
    """Estimate a run without running anything.

    Args:
        config: the run's configuration.
        seconds: how long images are read, to see whether they can be decoded. None: until all are read.
        pace: what is known about this machine's pace; what matters and is not known is measured and added.
            None: nothing is known.
        surveys: what was read of the images, by request. Estimates that share it read the images once.

    Raises:
        ConfigError: the images do not allow the configuration (`tasks.feasible`).
        DataError: a source can't be listed, and its size is not published either.
        ConfigError: a network can't be built for the image size.
    """
    pace = pace or first_pace()
    run = _laid_out(config, seconds, {} if surveys is None else surveys, pace)
    before = pace.spent
    pace.measure(run.work())
    run.assume(
        f"CPU: this machine, as busy as it is now; measuring its pace took {duration(pace.spent - before)}"
    )
    if load := under_load(pace.taken):
        run.assume(f"CPU: {load}, so the run takes less time once they are done")
    return run.priced(pace)


def _laid_out(config: Config, seconds: float | None, surveys: dict[str, Looked], pace: Pace) -> _Estimator:
    """The stages of a run. The arguments are those of `estimate`."""
    root = Path(config.store).expanduser()
    store = Store(root) if (root / "artifacts").exists() else None
    run = _Estimator(config, store, seconds, pace, surveys)
    hooks = Hooks(
        run.step,
        run.look,
        run.not_needed.append,
        understood=run.understood.extend,
        planned=run.follow,
    )
    chain(config, hooks)
    run.assume(GPU)
    run.assume("vectors are float32")
    return run


def first_pace() -> Pace:
    """A pace that knows at most how long the imports took just now."""
    loaded = "torch" in sys.modules
    began = time.perf_counter()
    from models.pace import Pace

    pace = Pace()
    if not loaded:
        pace.imported(time.perf_counter() - began)
    return pace


def _portions(size: Size) -> tuple[Portion, ...]:
    """The work of a stage. If the stage names none, its operations are taken for products of matrices."""
    return size.work or ((products(size.operations),) if size.operations else ())


def estimate_claims(
    claims: list[Claim],
    scale: Scale,
    seeds: int,
    sources: dict[str, str],
    store: str,
    *,
    pace: Pace | None = None,
) -> list[dict[str, Any]]:
    """Estimate the cost of claims. A stage that arms share is counted once per seed.

    What claims share is counted in each of them.

    Args:
        claims: the claims to test.
        scale: the scale of the trainings.
        seeds: number of runs per arm.
        sources: name of images -> their source.
        store: folder of the store; artifacts that it has are not counted.
        pace: as in `estimate`.

    Returns:
        One row per claim with claim, runs, gpu_hours, cpu_hours on this machine as busy as it is now, and
        cpu_hours_alone without the time that other programs took.
    """
    pace, surveys = pace or first_pace(), dict[str, Looked]()
    runs: list[list[_Estimator]] = []
    for claim in claims:
        alike = {"recipe": claim.name, "store": store}
        asked = [resolved(claim, arm, scale, sources).model_copy(update=alike) for arm in claim.arms]
        configs = {config.model_dump_json(): config for config in asked}.values()  # arms may share one run
        runs.append([_laid_out(config, 5.0, surveys, pace) for config in configs])
    pace.measure([portion for arms in runs for run in arms for portion in run.work()])
    rows = []
    for claim, arms in zip(claims, runs, strict=True):
        found, alone = ([run.priced(pace, alone=only) for run in arms] for only in (False, True))
        hours = {
            "gpu_hours": seeds * _together(arms, found, on_gpu=True),
            "cpu_hours": seeds * _together(arms, found),
            "cpu_hours_alone": seeds * _together(arms, alone),
        }
        rows.append({"claim": claim.name, "runs": seeds * len(arms), **hours})
    return rows


def _together(runs: list[_Estimator], found: list[Estimate], *, on_gpu: bool = False) -> float:
    """Hours that runs with one store take, one after the other."""
    seconds: dict[Artifact, float] = {}
    for run, each in zip(runs, found, strict=True):
        for artifact, row in zip(run.made, each.rows, strict=True):
            taken = row.operations / GPU_RATE if on_gpu else row.seconds
            seconds.setdefault(artifact, 0.0 if row.in_store else taken)
    starting = 0.0 if on_gpu else sum(each.starting for each in found)
    return (starting + sum(seconds.values())) / 3600
