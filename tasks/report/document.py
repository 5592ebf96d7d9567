"""Renders `report.html`. Pure: equal data give equal bytes. The page works offline, from one file.

Where a run lacks something (labels, test images, a training log), the section says why instead.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from math import isfinite, log
from typing import Any

import numpy as np
from markupsafe import Markup

from data.checkpoints import LogRow
from data.intervals import wilson
from tasks.phrases import duration, percent
from tasks.report import advice, confusion, explore, figures, graph, scoreboard, sheets, stamp, templates
from tasks.report.content import (
    Answers,
    Clusters,
    ClusterSheet,
    Mistake,
    ReportData,
    StageRow,
    TwinRow,
    Twins,
)
from tasks.report.numbers import amount, bits, count, magnitude, narrow, number, points
from tasks.report.scoreboard import Board, Cell, Gain

SHEETS_LIMIT = 1_000_000
"""Bytes of all contact sheets together. Each gets an equal part, and at most `sheets.LIMIT`."""
CLASSES_SHOWN = 60
TWIN_BYTES = 12_000
"""Bytes of the picture of two images, at most."""
MISTAKE_BYTES = 9_000
"""Bytes of the picture of a wrong image, at most."""
MISTAKE_SIDE = 96
"""Side of a wrong image on the page, px, at most."""
ROWS_SHOWN = 25
"""Classes in the table by class. The reader unfolds the others."""
ROWS_AT_MOST = 1000
"""Classes on the page, at most. The file answers.parquet has all of them."""
PAIRS_SHOWN = 20
"""Confused pairs of classes that are listed if the matrix is too large to be drawn."""
REJECTED_SHOWN = 20
TRAININGS_SHOWN = 12
"""Trainings whose curves are visible at once. The reader unfolds the others."""
KIND_COLOURS = {
    "manifest": "third",
    "labels": "third",
    "checkpoint": "first",
    "codes": "second",
    "clusters": "second",
    "assignments": "second",
    "scores": "ink",
    "answers": "ink",
    "export": "ink",
}
"""Kind of artifact -> colour in the drawing of stages. All others are neutral."""
CHARACTER, FACTS = 8.4, 190.0
"""Width of a character of a label and of the facts about a stage, in the drawing, px."""


def render(data: ReportData) -> str:
    """The report as one HTML page that loads nothing: styles, figures and images are inside.

    The page lacks the name and the start of a run. `stamp.stamp` fills them in.

    Raises:
        ArtifactError: stages read missing stages or each other in a circle; images are not (h, w, 3) uint8.
    """
    formats: tuple[Callable[..., str], ...] = (
        count,
        duration,
        percent,
        points,
        number,
        bits,
        magnitude,
        cell,
        holds,
    )
    template = templates.load("report.html.j2", {write.__name__: _narrowed(write) for write in formats})
    found = scoreboard.board(data.scores, data.models, tuple(data.evaluations))
    gains = (scoreboard.gain(found, evaluation, model, data.scratch) for evaluation, model in data.headlines)
    gain = next((each for each in gains if each is not None), None)
    return template.render(
        data=data,
        stamp={
            "title": Markup(stamp.TITLE),
            "name": Markup(stamp.NAME),
            "started": Markup(stamp.STARTED),
            "run": Markup(stamp.RUN),
        },
        light=figures.LIGHT,
        dark=figures.DARK,
        board=found,
        gain=gain,
        verdict=verdict(gain),
        advice=advice.advice(data),
        rules=len(advice.RULES),
        guessing=log(max(2, len(data.classes))),
        answers=_answers(data.answers),
        classes_listed=ROWS_SHOWN,
        classes_at_most=ROWS_AT_MOST,
        explore=None if data.map is None else explore.section(data.map, data.classes, codes=data.codes),
        explore_style=explore.style(),
        policy="" if data.map is None else f"; {explore.policy()}",
        chart=_chart(data, found),
        absent=absent(data),
        drawing=_drawing(data),
        row_height=graph.ROW,
        gone={each.stage: each for each in data.not_needed},
        stage_of={stage.label: stage for stage in data.stages},
        trainings=_trainings(data.logs),
        trainings_shown=TRAININGS_SHOWN,
        cluster_figures=_cluster_figures(data.clusters),
        sheets=_sheets(data.sheets),
        twins=_twins(data.twins),
        classes_shown=CLASSES_SHOWN,
        rejected_shown=REJECTED_SHOWN,
    )


def _narrowed(write: Callable[..., str]) -> Callable[..., str]:
    return lambda *values: narrow(write(*values))


def cell(cell: Cell, share: bool) -> str:
    """A cell's value: shares in per cent, others with four digits."""
    return percent(cell.value) if share else number(cell.value)


def holds(stage: StageRow) -> str:
    """What a stage's artifact holds: `1 437 images`, or `5.33 M parameters`."""
    return "–" if stage.rows is None else amount(stage.rows, stage.kind)


def _answers(found: Answers | None) -> dict[str, Any] | None:
    """What the sections about the model's answers show besides the numbers."""
    if found is None:
        return None
    spread = wilson(found.accuracy, found.n)
    drawn = confusion.draw(found.matrix, found.names)
    return {
        "low": spread[0],
        "high": spread[1],
        "reliability": Markup(figures.reliability_svg(found.bins, found.histogram, "reliability")),
        "selective": Markup(figures.selective_svg(found.answered, "selective")),
        "confusion": drawn,
        "pairs": () if drawn else found.pairs[:PAIRS_SHOWN],
        "mistakes": [(each, *_mistake(each)) for each in found.mistakes],
        "wrong": found.n - found.right,
    }


def _mistake(each: Mistake) -> tuple[str, bool]:
    """A wrong image as a data URI, and whether it is so small that its pixels show."""
    uri = b64encode(sheets.png([each.image], columns=1, side=MISTAKE_SIDE, limit=MISTAKE_BYTES)).decode()
    return f"data:image/png;base64,{uri}", max(each.image.shape[:2]) * 2 <= MISTAKE_SIDE


def _drawing(data: ReportData) -> dict[str, Any]:
    """The drawing of the stages: labels on the left, then the lanes, then a few facts about each stage."""
    labels = [*(stage.label for stage in data.stages), *(gone.stage for gone in data.not_needed)]
    unneeded = {gone.stage: tuple(name for name in gone.reads if name in labels) for gone in data.not_needed}
    # Stages that are left out come first, so that each stands right below what it would read.
    drawn = graph.layout(unneeded | {stage.label: stage.inputs for stage in data.stages})
    lanes = max((CHARACTER * len(label) for label in labels), default=0)
    colours = {stage.label: KIND_COLOURS.get(stage.kind, "neutral") for stage in data.stages}
    return {
        "places": drawn.places,
        "edges": drawn.edges,
        "colours": dict.fromkeys(unneeded, "neutral") | colours,
        "lanes": lanes,
        "facts": lanes + drawn.width,
        "width": lanes + drawn.width + FACTS,
        "height": drawn.height,
    }


def absent(data: ReportData) -> dict[str, str]:
    """Each section that is left out -> the reason."""
    unclustered = next((gone for gone in data.not_needed if gone.stage == "cluster"), None)
    no_clusters = "The run has no clusters."
    if unclustered is not None:
        no_clusters = f"The run has no clusters, because {unclustered.because}."
    learned = "codes" if data.codes else "clusters"
    if not (data.classes or data.counts.labelled):
        scores = "There are no labels, so the chain ended after transfer. Nothing was fine-tuned or scored."
        quality = f"There are no labels to compare the {learned} with."
    elif not data.counts.test:
        scores = "There are no test images, so no model was scored."
        quality = f"{learned.capitalize()} were not compared with classes in this run."
    else:
        scores = "No model was scored in this run (evaluate.protocols is empty, or the run ended before)."
        quality = f"{learned.capitalize()} were not compared with classes in this run."
    if data.ships is not None and not data.ships.classes:
        unanswered = "The model gives features, and no class: the chain ended before fine-tuning."
    elif not data.counts.test:
        unanswered = "There are no test images, so how good it is, is unknown."
    else:
        unanswered = (
            "Its answers were not measured: the test images have no labels, or evaluate.protocols has no "
            "few-label."
        )
    reasons = {
        "scores": None if data.scores else scores,
        "stages": None if data.stages else "No stage has finished.",
        "training": None if any(data.logs.values()) else "No training of this run has left a log.",
        "clusters": None if data.clusters is not None else no_clusters,
        "quality": None if data.quality is not None else quality,
        "model": None if data.ships is not None else "This run trained no network, so there is no model.",
        "answers": None if data.answers is not None else unanswered,
        "map": None if data.map is not None else "No map was drawn: evaluate.protocols has no explore.",
        "sheets": None
        if data.sheets
        else "No cluster's images were chosen to be shown."
        if data.clusters
        else no_clusters,
        "config": None if data.config.strip() else "The resolved configuration was not recorded.",
        "environment": None if data.environment else "Versions and device were not recorded.",
    }
    return {section: reason for section, reason in reasons.items() if reason is not None}


def verdict(gain: Gain | None) -> str:
    """One of: better, worse, level (the interval of the difference contains 0), alone (no baseline), none."""
    if gain is None:
        return "none"
    if gain.interval is None:
        return "alone"
    low, high = gain.interval
    return "better" if low > 0 else "worse" if high < 0 else "level"


def _chart(data: ReportData, found: Board) -> dict[str, Any] | None:
    """The first row with an interval for at least two models, as a figure."""
    for row in found.rows:
        bars = [
            figures.Bar(label, cell.value, cell.low, cell.high, _model_colour(data, model))
            for (model, label), cell in zip(found.models, row.cells, strict=True)
            if cell is not None and cell.low is not None and cell.high is not None
        ]
        if len(bars) > 1:
            return {"measurement": row.measurement, "svg": Markup(figures.scores_svg(bars, "scores"))}
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
        others = [row for row in ordered if row.name != "loss" and not figures.learning_rate(row.name)]
        finite = [value for value in losses if isfinite(value)]
        rates = [row.value for row in ordered if figures.learning_rate(row.name)]
        found.append(
            {
                "label": label,
                "svg": Markup(figures.loss_curve_svg(ordered, f"loss{i}")),
                "loss": (finite[0], finite[-1]) if finite else None,
                "broken": len(losses) - len(finite),
                "steps": ordered[-1].step,
                "epochs": ordered[-1].epoch,
                "rate": max(rates, default=None),
                "last": {row.name: row.value for row in others},
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


def _twins(found: Twins | None) -> list[tuple[TwinRow, str]]:
    """Each pair with its two images as a data URI; an empty one if an image is not there."""
    rows = []
    for row in found.first if found else ():
        uri = ""
        if row.images:
            uri = "data:image/png;base64," + b64encode(sheets.png(row.images, limit=TWIN_BYTES)).decode()
        rows.append((row, uri))
    return rows


def _sheets(chosen: Sequence[ClusterSheet]) -> list[tuple[ClusterSheet, str, bool]]:
    """Each sheet, its picture as a data URI, and True if its images are so small that pixels show."""
    # Base64 turns three bytes into four characters.
    limit = min(sheets.LIMIT, SHEETS_LIMIT * 3 // 4 // max(1, len(chosen)))
    drawn = []
    for each in chosen:
        tiny = max(max(image.shape[:2]) for image in each.images) * 2 <= sheets.SIDE if each.images else False
        uri = "data:image/png;base64," + b64encode(sheets.png(each.images, limit=limit)).decode()
        drawn.append((each, uri, tiny))
    return drawn
