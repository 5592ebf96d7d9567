"""The table of scores, and what the chain gained, from the rows of `scores.parquet`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from math import isfinite
from statistics import fmean, stdev

from data.intervals import difference_interval, wilson

PROPORTIONS = frozenset({"accuracy", "top1", "top5"})
"""Metrics that are a share of n images judged right. The page shows them with Wilson's interval."""

MEANS = frozenset({"voc_map", "voc07_map", "coco_map", "coco_map75", "miou", "pixel_accuracy"})
"""Metrics between 0 and 1 that are not a share of n. Rows of their own give their intervals."""
LOW, HIGH = "_low", "_high"
"""Endings of a metric's name that mark the two ends of its 95 % interval."""


@dataclass(frozen=True)
class Score:
    """A row of `scores.parquet`."""

    evaluation: str
    model: str
    metric: str
    split: str
    setting: str
    value: float
    seed: int
    n: int


@dataclass(frozen=True)
class Measurement:
    """What was measured, and how."""

    evaluation: str
    metric: str
    split: str
    setting: str

    @property
    def proportion(self) -> bool:
        """Whether the values are shares of images."""
        return self.metric in PROPORTIONS

    @property
    def share(self) -> bool:
        """Whether the values lie between 0 and 1 and higher is better."""
        return self.proportion or self.metric in MEANS


@dataclass(frozen=True)
class Cell:
    """A model's value in a row.

    Attributes:
        value: mean over seeds.
        spread: standard deviation over seeds, None for one seed.
        seeds: how many seeds.
        n: images that each value was measured on; the smallest number if they differ.
        low: lower end of the 95 % interval, for shares.
        high: its upper end.
        best: True if no other model of the row has a higher value; only for shares.
    """

    value: float
    spread: float | None
    seeds: int
    n: int
    low: float | None
    high: float | None
    best: bool = False

    @property
    def interval(self) -> tuple[float, float] | None:
        """Both ends, for shares."""
        return None if self.low is None or self.high is None else (self.low, self.high)


@dataclass(frozen=True)
class BoardRow:
    """A measurement and a cell for each model, None for models that were not measured."""

    measurement: Measurement
    cells: tuple[Cell | None, ...]

    @property
    def n(self) -> int | None:
        """How many images every cell was measured on, None if that differs."""
        found = {cell.n for cell in self.cells if cell is not None}
        return found.pop() if len(found) == 1 else None


@dataclass(frozen=True)
class Board:
    """Measurements down, models across. `models` holds (name, name on the page)."""

    models: tuple[tuple[str, str], ...]
    rows: tuple[BoardRow, ...]

    @property
    def groups(self) -> list[tuple[str, list[BoardRow]]]:
        """The rows of each evaluation."""
        grouped = groupby(self.rows, lambda row: row.measurement.evaluation)
        return [(evaluation, list(rows)) for evaluation, rows in grouped]

    def of(self, model: str) -> list[tuple[Measurement, Cell]]:
        """The cells of a model, by measurement."""
        at = [name for name, _ in self.models].index(model) if model in dict(self.models) else None
        cells = [] if at is None else [(row.measurement, row.cells[at]) for row in self.rows]
        return [(measurement, cell) for measurement, cell in cells if cell is not None]


@dataclass(frozen=True)
class Gain:
    """What the chain gained: the final student against the same network trained on the same labels alone.

    Attributes:
        model: which model is the final student.
        measurement: what was measured.
        final: the final student's score.
        scratch: the baseline's score, None without a baseline.
        difference: final - scratch, in [-1, 1].
        interval: 95 % interval of the difference, if both scores have one (Newcombe; Zou and Donner).
    """

    model: str
    measurement: Measurement
    final: Cell
    scratch: Cell | None
    difference: float | None
    interval: tuple[float, float] | None


def board(scores: Sequence[Score], models: Mapping[str, str], evaluations: Sequence[str] = ()) -> Board:
    """Arrange scores in a table. Values that are not finite are left out.

    Args:
        scores: the rows of `scores.parquet` to show.
        models: model -> its name on the page. Models come in this order, and others after them.
        evaluations: Evaluations come in this order, and others after them.
    """
    seen: dict[tuple[str, Measurement], list[Score]] = {}
    bounds: dict[tuple[str, Measurement, str], float] = {}
    for score in scores:
        if not isfinite(score.value):
            continue
        for end in (LOW, HIGH):
            metric = score.metric.removesuffix(end)
            if metric != score.metric and metric in MEANS:
                bounded = Measurement(score.evaluation, metric, score.split, score.setting)
                bounds[score.model, bounded, end] = score.value
                break
        else:
            measured = Measurement(score.evaluation, score.metric, score.split, score.setting)
            seen.setdefault((score.model, measured), []).append(score)
    ranked = dict.fromkeys([*evaluations, *(score.evaluation for score in scores)])
    rank = {evaluation: i for i, evaluation in enumerate(ranked)}
    measurements = sorted(
        dict.fromkeys(measurement for _, measurement in seen), key=lambda m: (rank[m.evaluation], not m.share)
    )
    known = dict.fromkeys([*models, *(score.model for score in scores)])
    names = [name for name in known if any(name == model for model, _ in seen)]
    rows = []
    for measurement in measurements:
        cells = [
            _cell(
                measurement,
                seen.get((name, measurement), []),
                bounds.get((name, measurement, LOW)),
                bounds.get((name, measurement, HIGH)),
            )
            for name in names
        ]
        values = [cell.value for cell in cells if cell is not None]
        if measurement.share and len(values) > 1:
            top = max(values)
            cells = [cell and replace(cell, best=cell.value == top) for cell in cells]
        rows.append(BoardRow(measurement, tuple(cells)))
    return Board(tuple((name, models.get(name, name)) for name in names), tuple(rows))


def gain(found: Board, evaluation: str, final: str, scratch: str) -> Gain | None:
    """Compare two models by the first share of `evaluation` on the test images that `final` has.

    Args:
        found: the table.
        evaluation: what to compare.
        final: the final student's name.
        scratch: the baseline's name.

    Returns:
        None if the final student has no such share.
    """
    baseline = dict(found.of(scratch))
    for measurement, cell in found.of(final):
        if measurement.evaluation == evaluation and measurement.split == "test" and measurement.share:
            other = baseline.get(measurement)
            if other is None:
                return Gain(final, measurement, cell, None, None, None)
            interval = None
            if cell.interval is not None and other.interval is not None:
                interval = difference_interval(cell.value, cell.interval, other.value, other.interval)
            return Gain(final, measurement, cell, other, cell.value - other.value, interval)
    return None


def _cell(
    measurement: Measurement,
    scores: Sequence[Score],
    low: float | None,
    high: float | None,
) -> Cell | None:
    if not scores:
        return None
    values = [score.value for score in scores]
    value, n = fmean(values), min(score.n for score in scores)
    spread = stdev(values) if len(values) > 1 else None
    if measurement.proportion and n > 0 and 0 <= value <= 1:
        low, high = wilson(value, n)
    return Cell(value, spread, len(values), n, low, high)
