"""The table of scores and the headline, from the rows of `scores.parquet`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import fmean, stdev

from data.intervals import difference, wilson

PROPORTIONS = frozenset({"accuracy", "top1", "top5"})
"""Metrics that are a share of n images judged right: shown in per cent, with Wilson's interval."""

MEANS = frozenset({"voc_map", "voc07_map", "coco_map", "coco_map75", "miou", "pixel_accuracy"})
"""Metrics between 0 and 1 that are no share of n: shown in per cent, with the interval that their own rows give."""
LOW, HIGH = "_low", "_high"
"""What the metric of a row ends with that is an end of another's 95 % interval."""


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
class Column:
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
        """Whether the values lie between 0 and 1, the higher the better."""
        return self.proportion or self.metric in MEANS


@dataclass(frozen=True)
class Cell:
    """A model's value in a column.

    Attributes:
        value: mean over seeds.
        spread: standard deviation over seeds, from two on.
        seeds: how many.
        n: images each value was measured on; the smallest if they differ.
        low: lower end of the 95 % interval, for shares.
        high: upper end of it.
        best: whether no other model of the column has a higher value; only for shares.
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
class Row:
    """A model and its cells, None where it was not measured."""

    model: str
    label: str
    cells: tuple[Cell | None, ...]


@dataclass(frozen=True)
class Board:
    """Models down, measurements across."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Headline:
    """What the chain bought: the final student, the same network trained on the same labels alone, and the difference.

    Attributes:
        model: which is the final student.
        column: what was measured.
        final: the final student's score.
        scratch: the baseline's, if there is one.
        difference: final - scratch, in [-1, 1].
        interval: 95 % interval of the difference, where both have one (Newcombe; Zou and Donner).
    """

    model: str
    column: Column
    final: Cell
    scratch: Cell | None
    difference: float | None
    interval: tuple[float, float] | None


def board(scores: Sequence[Score], models: Mapping[str, str], evaluations: Sequence[str] = ()) -> Board:
    """Rows in the order of `models` (name -> label), others after them; columns by `evaluations`, then as they come.

    Values that are not finite are left out.
    """
    seen: dict[tuple[str, Column], list[Score]] = {}
    bounds: dict[tuple[str, Column, str], float] = {}
    for score in scores:
        if not isfinite(score.value):
            continue
        for end in (LOW, HIGH):
            metric = score.metric.removesuffix(end)
            if metric != score.metric and metric in MEANS:
                bounds[score.model, Column(score.evaluation, metric, score.split, score.setting), end] = score.value
                break
        else:
            column = Column(score.evaluation, score.metric, score.split, score.setting)
            seen.setdefault((score.model, column), []).append(score)
    columns = list(dict.fromkeys(column for _, column in seen))
    rank = {name: i for i, name in enumerate(evaluations)}
    columns.sort(key=lambda c: (rank.get(c.evaluation, len(rank)), not c.share))
    names = {model for model, _ in seen}
    order = [
        *(m for m in models if m in names),
        *dict.fromkeys(s.model for s in scores if s.model in names - set(models)),
    ]
    cells = {
        (model, column): _cell(column, group, bounds.get((model, column, LOW)), bounds.get((model, column, HIGH)))
        for (model, column), group in seen.items()
    }
    top = {column: max(cell.value for (_, c), cell in cells.items() if c == column) for column in columns}
    count = {column: sum(c == column for _, c in cells) for column in columns}
    rows = []
    for model in order:
        line: list[Cell | None] = []
        for column in columns:
            cell = cells.get((model, column))
            if cell is not None and column.share and count[column] > 1 and cell.value == top[column]:
                cell = Cell(cell.value, cell.spread, cell.seeds, cell.n, cell.low, cell.high, best=True)
            line.append(cell)
        rows.append(Row(model, models.get(model, model), tuple(line)))
    return Board(tuple(columns), tuple(rows))


def headline(found: Board, evaluation: str, final: str, scratch: str) -> Headline | None:
    """The first share of `evaluation` on the test images, or None where the final student has none."""
    by_model = {row.model: row for row in found.rows}
    if final not in by_model:
        return None
    for i, column in enumerate(found.columns):
        cell = by_model[final].cells[i]
        if column.evaluation == evaluation and column.split == "test" and column.share and cell is not None:
            other = by_model[scratch].cells[i] if scratch in by_model else None
            if other is None:
                return Headline(final, column, cell, None, None, None)
            ends = cell.interval, other.interval
            interval = difference(cell.value, ends[0], other.value, ends[1]) if ends[0] and ends[1] else None
            return Headline(final, column, cell, other, cell.value - other.value, interval)
    return None


def _cell(column: Column, scores: Iterable[Score], low: float | None, high: float | None) -> Cell:
    group = list(scores)
    values = [score.value for score in group]
    value, n = fmean(values), min(score.n for score in group)
    spread = stdev(values) if len(values) > 1 else None
    bounded = column.proportion and n > 0 and 0 <= value <= 1
    if bounded:
        low, high = wilson(value, n)
    return Cell(value, spread, len(values), n, low, high)
