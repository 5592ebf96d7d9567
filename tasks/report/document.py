"""`report.html`: what goes in, as plain data, and the page that comes out. Pure: equal data give equal bytes.

What a run has not got (labels, test images, a training log) leaves its section with a sentence that says why.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from math import isfinite
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray

from tasks.report import figures, graph, scoreboard, sheets
from tasks.report.figures import LogRow
from tasks.report.scoreboard import Board, Cell, Headline, Score

MODELS: Mapping[str, str] = {
    "teacher": "Teacher, pretext only",
    "teacher-finetuned": "Teacher, fine-tuned",
    "student-transferred": "Student, on pseudo-labels only",
    "student-finetuned": "Student, fine-tuned",
    "student": "Final student (distilled)",
    "scratch": "Same student from scratch",
}
"""Models in the order of the chain, as named in `scores.parquet` -> as shown."""

EVALUATIONS: Mapping[str, str] = {
    "few-label": "Classifier, from the drawn labels",
    "linear": "Linear probe",
    "knn": "kNN",
    "layers": "Linear probe of a layer",
    "nonlinear": "Non-linear probe",
    "label-efficiency": "Few labels, drawn anew",
    "detection": "Detection, trained further",
    "segmentation": "Segmentation, trained further",
    "multi-label": "Classes in a photograph, trained further",
}
"""Evaluations in the order of the table, as named in `scores.parquet` -> as shown."""

FINAL = "student"
"""The model at the end of the chain."""
DECIDING = (
    ("few-label", FINAL),
    *((evaluation, "student-transferred") for evaluation in ("detection", "segmentation", "multi-label")),
)
"""(evaluation, model) that a headline may be about, the first first."""

ALL_LABELS = frozenset({"linear", "knn"})
"""Protocols whose bank is all of train, with all its labels."""

SHEETS_LIMIT = 1_000_000
"""Bytes of all contact sheets together; a sheet gets an equal part, and at most `sheets.LIMIT`."""
CLASSES_SHOWN = 60
REJECTED_SHOWN = 20
INPUT_COLOURS = {
    "manifest": "third", "labels": "third",
    "checkpoint": "first",
    "features": "neutral", "probabilities": "neutral", "codes": "second",
    "clusters": "second", "assignments": "second",
    "scores": "ink", "report": "ink",
}  # fmt: skip
"""Kind of artifact -> colour in the drawing of stages."""


@dataclass(frozen=True)
class StageRow:
    """A stage of the run.

    Attributes:
        label: its name, once a run.
        kind: of its artifact.
        fingerprint: of its artifact.
        inputs: labels of the stages it reads.
        seconds: what building took, in this run or, cached, in the run that built it.
        cached: whether it was there already.
        rows: of its artifact, None for kinds without rows.
    """

    label: str
    kind: str
    fingerprint: str
    inputs: tuple[str, ...]
    seconds: float
    cached: bool
    rows: int | None = None


@dataclass(frozen=True)
class NotNeeded:
    """A stage that other runs have and this one does without.

    Attributes:
        label: its name.
        because: the setting that makes it needless.
        inputs: labels of the stages it reads where it is needed.
    """

    label: str
    because: str
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class Clusters:
    """What k-means found, or the codes that a pretext method gave.

    Attributes:
        sizes: (k,) training points nearest to each final centroid; images of each code.
        objective: mean squared distance per iteration of the kept restart; empty for codes.
        trained_on: points that k-means saw ...
        total: ... of these.
    """

    sizes: Sequence[int] | NDArray[np.int64]
    objective: tuple[float, ...]
    trained_on: int
    total: int

    @property
    def empty(self) -> int:
        """Clusters without a point."""
        return int((np.asarray(self.sizes) == 0).sum())

    @property
    def imbalance(self) -> float:
        """K Σ n² / (Σ n)²: 1 for equal sizes, k if all points are in one cluster (faiss's imbalance factor)."""
        n = np.asarray(self.sizes, np.float64)
        return float(n.size * (n**2).sum() / n.sum() ** 2) if n.sum() else float("nan")


@dataclass(frozen=True)
class ClusterSheet:
    """The images nearest to a centroid.

    Attributes:
        cluster: 0..k-1.
        reason: why it is shown: largest, purest, ...
        images: (h, w, 3) uint8 each, nearest first.
        size: images assigned to it.
        share: of all assigned images, in [0, 1].
        majority: the name of its most frequent class, None without labels.
        purity: that class's share among its labelled images, in [0, 1], None without labels.
    """

    cluster: int
    reason: str
    images: tuple[NDArray[np.uint8], ...]
    size: int
    share: float
    majority: str | None = None
    purity: float | None = None


@dataclass(frozen=True)
class ClusterQuality:
    """Agreement of clusters and classes, for the record only: training never sees it. All but ARI in [0, 1].

    Attributes:
        nmi: normalised mutual information, arithmetic mean.
        ami: the same, adjusted for chance.
        ari: adjusted Rand index, in [-0.5, 1].
        purity: share of images whose class is their cluster's majority.
        n: labelled images it was measured on.
    """

    nmi: float
    ami: float
    ari: float
    purity: float
    n: int


@dataclass(frozen=True)
class ModelCost:
    """What a model takes where it is used, for one image.

    Attributes:
        model: as shown.
        weight_bits: size of its weights: a bit a binary one, 32 any other.
        real_operations: multiply-adds of real numbers.
        binary_operations: multiply-adds of signs.
        final: whether it is the model of the headline.
    """

    model: str
    weight_bits: int
    real_operations: int
    binary_operations: int
    final: bool = False

    @property
    def operations(self) -> float:
        """Real ones, and binary ones at 64 to one (Bi-Real net)."""
        return self.real_operations + self.binary_operations / 64


@dataclass(frozen=True)
class Counts:
    """How many images there are, and how many labels were drawn.

    Attributes:
        train: images of the train split.
        unlabelled: images of the unlabelled split.
        test: images of the test split.
        labelled: labels drawn for training, 0 without labels.
        validation: labels drawn for choosing epochs or rates.
        fewest: labels of the class with fewest, both roles together; None if unknown.
        most: labels of the class with most.
    """

    train: int
    unlabelled: int
    test: int
    labelled: int = 0
    validation: int = 0
    fewest: int | None = None
    most: int | None = None


@dataclass(frozen=True)
class Rejected:
    """Images left out: how many, and (uri, reason) of the first."""

    count: int
    first: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class ReportData:
    """Everything the report shows. Fields with a default may be missing in a run.

    Attributes:
        run: the run's name.
        started: when, as text.
        recipe: its name or file.
        seed: the run's.
        stages: in order of the chain, cached ones too.
        not_needed: what this run does without.
        warnings: what every reader should know: a training whose outputs were all alike.
        counts: images and labels.
        logs: stage label -> rows of its `log.parquet`.
        clusters: what the student learned.
        codes: whether that are codes of the pretext method, not clusters of the features.
        sheets: some clusters to look at.
        quality: agreement of clusters and classes.
        scores: rows of `scores.parquet` that belong to models.
        costs: what the models take, in order of the chain.
        classes: class names, empty without labels.
        rejected: images left out.
        notes: sentences for the reader.
        config: the resolved configuration as YAML.
        environment: (name, value): library versions, device, precision, threads.
        models: models as named in `scores`, in order -> as shown.
        evaluations: evaluations as named in `scores`, in order -> as shown.
        all_labels: evaluations that use all train labels, whatever the draw.
        deciding: (evaluation, model) of the headline: the first of these that was scored.
        scratch: the baseline of the headline.
    """

    run: str
    started: str
    recipe: str
    seed: int
    stages: tuple[StageRow, ...]
    counts: Counts
    not_needed: tuple[NotNeeded, ...] = ()
    warnings: tuple[str, ...] = ()
    logs: Mapping[str, Sequence[LogRow]] = field(default_factory=dict)
    clusters: Clusters | None = None
    codes: bool = False
    sheets: tuple[ClusterSheet, ...] = ()
    quality: ClusterQuality | None = None
    scores: tuple[Score, ...] = ()
    costs: tuple[ModelCost, ...] = ()
    classes: tuple[str, ...] = ()
    rejected: Rejected = Rejected(0)
    notes: tuple[str, ...] = ()
    config: str = ""
    environment: tuple[tuple[str, str], ...] = ()
    models: Mapping[str, str] = field(default_factory=lambda: MODELS)
    evaluations: Mapping[str, str] = field(default_factory=lambda: EVALUATIONS)
    all_labels: frozenset[str] = ALL_LABELS
    deciding: tuple[tuple[str, str], ...] = DECIDING
    scratch: str = "scratch"


def render(data: ReportData) -> str:
    """The report as one HTML page that loads nothing: styles, figures and images are inside.

    Raises:
        ArtifactError: stages read stages that are not there or each other in a circle; images are not (h, w, 3) uint8.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "count": count,
        "duration": duration,
        "percent": percent,
        "points": points,
        "number": number,
        "cell": cell_value,
        "bits": bits,
        "magnitude": magnitude,
    }
    template = environment.from_string(files(__package__).joinpath("report.html.j2").read_text(encoding="utf-8"))
    found = scoreboard.board(data.scores, data.models, tuple(data.evaluations))
    candidates = (scoreboard.headline(found, evaluation, model, data.scratch) for evaluation, model in data.deciding)
    first = next((candidate for candidate in candidates if candidate is not None), None)
    return template.render(
        data=data,
        light=figures.LIGHT,
        dark=figures.DARK,
        board=found,
        headline=first,
        verdict=verdict(first),
        chart=_chart(data, found),
        absent=absent(data),
        drawing=graph.layout(_drawn(data)),
        gone={stage.label: stage for stage in data.not_needed},
        box={"width": graph.WIDTH, "height": graph.HEIGHT},
        colours=INPUT_COLOURS,
        stage_of={stage.label: stage for stage in data.stages},
        trainings=_trainings(data.logs),
        cluster_figures=_cluster_figures(data.clusters),
        sheets=_sheets(data.sheets),
        classes_shown=CLASSES_SHOWN,
        rejected_shown=REJECTED_SHOWN,
    )


def _drawn(data: ReportData) -> dict[str, tuple[str, ...]]:
    """Stage -> what it reads, for the drawing: those that are not needed too, with what there is of their inputs."""
    labels = {stage.label for stage in data.stages} | {stage.label for stage in data.not_needed}
    gone = {stage.label: tuple(name for name in stage.inputs if name in labels) for stage in data.not_needed}
    return {stage.label: stage.inputs for stage in data.stages} | gone


def absent(data: ReportData) -> dict[str, str]:
    """Section -> why it is left out, for the sections that are."""
    unclustered = next((stage for stage in data.not_needed if stage.label == "cluster"), None)
    no_clusters = "The run has no clusters"
    no_clusters += "." if unclustered is None else f": {unclustered.because} learns from the teacher itself."
    labels, learned = bool(data.classes or data.counts.labelled), "codes" if data.codes else "clusters"
    if not labels:
        scores = "There are no labels, so the chain ended after transfer: nothing was fine-tuned, distilled or scored."
        quality = f"There are no labels to compare the {learned} with."
    elif not data.counts.test:
        scores = "There are no test images, so no model was scored."
        quality = f"{learned.capitalize()} were not compared with classes in this run."
    else:
        scores = "No model was scored in this run (evaluate.protocols is empty, or the run ended before)."
        quality = f"{learned.capitalize()} were not compared with classes in this run."
    reasons = {
        "scores": None if data.scores else scores,
        "stages": None if data.stages else "No stage has finished.",
        "training": None if any(data.logs.values()) else "No training of this run has left a log.",
        "clusters": None if data.clusters is not None else no_clusters,
        "quality": None if data.quality is not None else quality,
        "sheets": None
        if data.sheets
        else "No cluster's images were chosen to be shown."
        if data.clusters
        else no_clusters,
        "config": None if data.config.strip() else "The resolved configuration was not recorded.",
        "environment": None if data.environment else "Versions and device were not recorded.",
    }
    return {section: reason for section, reason in reasons.items() if reason is not None}


def verdict(found: Headline | None) -> str:
    """One of: better, worse, level (the interval of the difference contains 0), alone (no baseline), none."""
    if found is None:
        return "none"
    if found.interval is None:
        return "alone"
    low, high = found.interval
    return "better" if low > 0 else "worse" if high < 0 else "level"


def count(value: int) -> str:
    """1437 -> 1 437, with narrow spaces that don't break."""
    return f"{value:,}".replace(",", "\u202f")


def duration(seconds: float) -> str:
    """0.04 -> 40 ms, 12.3 -> 12.3 s, 200 -> 3 min 20 s, 7500 -> 2 h 05 min."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def percent(value: float, digits: int = 1) -> str:
    """0.9712 -> 97.1 %."""
    return f"{100 * value:.{digits}f}\u202f%"


def points(difference: float) -> str:
    """0.057 -> +5.7, -0.012 -> −1.2: percentage points, with a sign."""
    text = f"{100 * difference:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def bits(value: int) -> str:
    """Bits as bytes: 800 -> 100 bytes, 8e6 -> 1 MB."""
    size = value / 8
    return f"{size:.0f} bytes" if size < 999.5 else f"{size / 1e3:.3g} kB" if size < 999.5e3 else f"{size / 1e6:.4g} MB"


def magnitude(value: float) -> str:
    """0 -> 0, 1234 -> 1.23 k, 5.6e7 -> 56 M, 4.1e9 -> 4.1 G."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * size:
            return f"{value / size:.3g}\u202f{unit}"
    return f"{value:.3g}"


def number(value: float) -> str:
    """Four significant digits; what is not finite by name."""
    return f"{value:.4g}".replace("-", "−") if isfinite(value) else str(value)


def cell_value(cell: Cell, share: bool) -> str:
    """A cell's value: per cent for shares, else four digits."""
    return percent(cell.value) if share else number(cell.value)


def _chart(data: ReportData, found: Board) -> dict[str, Any] | None:
    """The first column of proportions that at least two models have, as a figure."""
    for i, column in enumerate(found.columns):
        cells = [(row, row.cells[i]) for row in found.rows]
        bars = [
            figures.Bar(row.label, cell.value, cell.low, cell.high, _model_colour(data, row.model))
            for row, cell in cells
            if cell is not None and cell.low is not None and cell.high is not None
        ]
        if len(bars) > 1:
            return {"column": column, "svg": Markup(figures.scores_svg(bars, "scores"))}
    return None


def _model_colour(data: ReportData, model: str) -> str:
    return "neutral" if model == data.scratch else "first" if "teacher" in model else "second"


def _trainings(logs: Mapping[str, Sequence[LogRow]]) -> list[dict[str, Any]]:
    found = []
    for i, (label, rows) in enumerate(logs.items()):
        if not rows:
            continue
        ordered = sorted(rows, key=lambda row: row.step)
        losses = [row.value for row in ordered if row.name == "loss"]
        finite = [value for value in losses if isfinite(value)]
        rates = [row.value for row in ordered if figures.learning_rate(row.name)]
        last = {row.name: row.value for row in ordered if row.name != "loss" and not figures.learning_rate(row.name)}
        found.append(
            {
                "label": label,
                "svg": Markup(figures.loss_curve_svg(ordered, f"loss{i}")),
                "loss": (finite[0], finite[-1]) if finite else None,
                "broken": len(losses) - len(finite),
                "steps": ordered[-1].step + 1,
                "epochs": ordered[-1].epoch,
                "rate": max(rates, default=None),
                "last": last,
            }
        )
    return found


def _cluster_figures(found: Clusters | None) -> dict[str, Any] | None:
    if found is None:
        return None
    sizes = np.asarray(found.sizes, np.int64)
    objective = [value for value in found.objective if isfinite(value)]
    return {
        "k": sizes.size,
        "largest": int(sizes.max(initial=0)),
        "median": float(np.median(sizes)) if sizes.size else 0.0,
        "smallest": int(sizes.min()) if sizes.size else 0,
        "share": float(sizes.max(initial=0) / sizes.sum()) if sizes.sum() else 0.0,
        "sizes": Markup(figures.cluster_sizes_svg(sizes, "sizes")) if sizes.size else None,
        "objective": Markup(figures.objective_svg(objective, "objective")) if len(objective) > 1 else None,
        "fall": (objective[0], objective[-1]) if objective else None,
    }


def _sheets(chosen: Sequence[ClusterSheet]) -> list[tuple[ClusterSheet, str, bool]]:
    """Each with its picture as a data URI, and whether its pixels are to stay visible."""
    # Base64 makes four characters of three bytes.
    limit = min(sheets.LIMIT, SHEETS_LIMIT * 3 // 4 // max(1, len(chosen)))
    drawn = []
    for each in chosen:
        tiny = max(max(image.shape[:2]) for image in each.images) * 2 <= sheets.SIDE if each.images else False
        uri = "data:image/png;base64," + b64encode(sheets.png(each.images, limit=limit)).decode()
        drawn.append((each, uri, tiny))
    return drawn
