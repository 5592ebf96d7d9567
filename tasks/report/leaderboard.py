"""Several runs side by side: means over seeds, and how far each is behind the first, with an interval.

Only runs with the same test set are ranked against each other: the same images with the same labels, for
every seed. Two runs that share at least two seeds are compared seed by seed, others image by image. There is
a winner only if the intervals of all other runs lie below 0. Runs may differ in their draws of labels in
place of their seeds, which is said then, and counts in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal

import numpy as np

from data.intervals import paired, paired_shares, wilson
from data.schemas import LEADERBOARD
from data.tables import column, read_table, write_table
from tasks.report import figures, templates
from tasks.report.content import RANKED_BY

Column = tuple[str, str, str, str]
"""evaluation, model, metric, setting."""
RIVALS = ("shipped", "student", "scratch")
"""The classifiers that matter most to a user, by their names in the scores."""
ACCURACY = {name: ("few-label", name, "top1", "") for name in RIVALS}


@dataclass(frozen=True)
class Model:
    """The size of a model.

    Attributes:
        network: its backbone, with its width if that is not 1.
        image_size: side of the images that it sees, px.
        parameters: number of its parameters.
        bytes: size of its weights on disk, as float32.
    """

    network: str
    image_size: int
    parameters: int
    bytes: int


@dataclass
class Entry:
    """What is compared: one configuration, run with one seed or several, or with several draws of labels.

    Attributes:
        name: what sets it apart from the others.
        parts: the names of its pretext, teacher, transfer and student.
        by: what sets its runs apart: seeds, or draws. In the latter case the number of a draw is its seed.
        values: column -> seed -> value.
        n: column -> number of test images.
        right: column -> seed -> (index ascending, True where the model is right), if it judges single images.
        runs: names of its runs.
        tests: seed -> name of the test set: a hash of its images and labels.
        seconds: what the stages of each run took when they were computed, also those that others computed.
        ships: name of the model that each run ships.
        models: teacher, shipped and student, as far as the first run has them.
    """

    name: str
    parts: dict[str, str]
    by: Literal["seeds", "draws"] = "seeds"
    values: dict[Column, dict[int, float]] = field(default_factory=dict)
    n: dict[Column, int] = field(default_factory=dict)
    right: dict[Column, dict[int, tuple[Any, Any]]] = field(default_factory=dict)
    runs: list[str] = field(default_factory=list)
    tests: dict[int, str] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    ships: list[str] = field(default_factory=list)
    models: dict[str, Model] = field(default_factory=dict)

    def enter(
        self,
        run: str,
        seed: int,
        rows: Iterable[Mapping[str, Any]],
        outcomes: Iterable[Path],
        test: str = "",
    ) -> None:
        """Add a run.

        Args:
            run: its name.
            seed: its seed.
            rows: of its `scores.parquet`.
            outcomes: the files that say which images its models got right.
            test: names its test set; equal names mean equal images with equal labels.
        """
        self.runs.append(run)
        self.tests[seed] = test
        found: dict[Column, list[float]] = {}
        for row in rows:
            if row["split"] == "test":
                at = (row["evaluation"], row["model"], row["metric"], row["setting"])
                found.setdefault(at, []).append(row["value"])  # several: few labels, several draws
                self.n[at] = row["n"]
        for at, values in found.items():
            self.values.setdefault(at, {})[seed] = fmean(values)
        for path in outcomes:
            table = read_table(path)
            keys = list(zip(*(column(table, name).tolist() for name in LEADERBOARD.names[5:9]), strict=True))
            index, right = column(table, "index"), column(table, "right")
            for at in dict.fromkeys(keys):
                of = np.array([key == at for key in keys])
                order = np.argsort(index[of])
                self.right.setdefault(at, {})[seed] = (index[of][order], right[of][order])


@dataclass(frozen=True)
class Place:
    """A row of the board.

    Attributes:
        entry: what it is about.
        value: mean over seeds of the score that ranks the runs.
        spread: standard deviation over seeds, None for one seed.
        low: lower end of the value's 95 % interval, None for several seeds.
        high: its upper end.
        behind: difference from the first; None for the first itself.
        interval: 95 % interval of that difference; None if nothing can be paired.
        by: what was paired: seeds, draws, images, or nothing.
    """

    entry: Entry
    value: float
    spread: float | None
    low: float | None
    high: float | None
    behind: float | None
    interval: tuple[float, float] | None
    by: str


@dataclass(frozen=True)
class Leaderboard:
    """The ranked entries.

    Attributes:
        ranked_by: the column that ranks them.
        places: best first.
        winner: name of the first, if it is ahead of all others beyond chance.
    """

    ranked_by: Column
    places: tuple[Place, ...]
    winner: str | None

    @property
    def images(self) -> int:
        """The number of test images of the score that ranks the runs."""
        return self.places[0].entry.n[self.ranked_by]


def leaderboards(entries: Sequence[Entry]) -> tuple[Leaderboard, ...]:
    """Rank the entries of each test set among themselves, in the order in which the test sets appear.

    Raises:
        ValueError: entries with the same test set have no score in common that could rank them.
    """
    groups: dict[tuple[tuple[int, str], ...], list[Entry]] = {}
    for entry in entries:
        groups.setdefault(tuple(sorted(entry.tests.items())), []).append(entry)
    return tuple(leaderboard(group) for group in groups.values())


def apart(boards: Sequence[Leaderboard]) -> str | None:
    """A sentence on why not all runs are ranked together, or None if they are."""
    if len(boards) < 2:
        return None
    sets = "; ".join(
        f"test set {number}, {board.images:,} images: {', '.join(p.entry.name for p in board.places)}"
        for number, board in enumerate(boards, start=1)
    )
    return (
        f"These runs have {len(boards)} different test sets ({sets}). An accuracy on one says nothing about "
        "another, so only runs with the same test set are ranked against each other. To compare all, give "
        "them the same data.test, or the same data.train and seed."
    )


def leaderboard(entries: Sequence[Entry]) -> Leaderboard:
    """Rank entries that have the same test set.

    Raises:
        ValueError: they have no score in common that could rank them.
    """
    shared = set.intersection(*(set(entry.values) for entry in entries))
    candidates = (at for wanted in RANKED_BY for at in sorted(shared) if at[:2] == wanted and at[2] == "top1")
    ranked_by = next(candidates, None)
    if ranked_by is None:
        raise ValueError(
            "the runs have no accuracy in common; give them labels, a test set, and the same protocols",
        )
    ordered = sorted(entries, key=lambda entry: -fmean(entry.values[ranked_by].values()))
    first = ordered[0]
    places = [_place(entry, first, ranked_by) for entry in ordered]
    ahead = all(place.interval is not None and place.interval[1] < 0 for place in places[1:])
    return Leaderboard(ranked_by, tuple(places), first.name if ahead and len(places) > 1 else None)


def _place(entry: Entry, first: Entry, at: Column) -> Place:
    values, n = list(entry.values[at].values()), entry.n[at]
    value, spread = fmean(values), stdev(values) if len(values) > 1 else None
    low, high = wilson(value, n) if spread is None else (None, None)
    if entry is first:
        return Place(entry, value, spread, low, high, None, None, "")
    behind, interval, by = gap(entry, first, at)
    return Place(entry, value, spread, low, high, behind, interval, by)


def gap(
    entry: Entry, other: Entry, at: Column, other_at: Column | None = None
) -> tuple[float, tuple[float, float] | None, str]:
    """How far an entry is ahead of another (negative: behind), its 95 % interval, and what was paired.

    Args:
        entry: the one.
        other: the other, which may be the same.
        at: the column to compare.
        other_at: the column of the other; None: the same.

    Returns:
        The difference; its interval, None if nothing can be paired; and `seeds`, `draws`, `images` or
        nothing.
    """
    to = other_at or at
    seeds = sorted(set(entry.values[at]) & set(other.values[to]))
    if len(seeds) > 1:
        mean, low, high = paired([entry.values[at][seed] - other.values[to][seed] for seed in seeds])
        return mean, (low, high), entry.by
    plain = fmean(entry.values[at].values()) - fmean(other.values[to].values())
    both = [seed for seed in seeds if seed in entry.right.get(at, {}) and seed in other.right.get(to, {})]
    if both:
        (index, right), (index_too, right_too) = entry.right[at][both[0]], other.right[to][both[0]]
        if np.array_equal(index, index_too):
            alone = int((right & ~right_too).sum()), int((~right & right_too).sum())
            mean, low, high = paired_shares(*alone, len(index))
            return mean, (low, high), "images"
    return plain, None, ""


def table(boards: Sequence[Leaderboard]) -> list[dict[str, Any]]:
    """The boards as rows for a table on Prefect's page. With several, the first column is the test set."""
    rows = []
    for test, board in enumerate(boards, start=1):
        for number, place in enumerate(board.places, start=1):
            sure = f" ± {100 * place.spread:.1f}" if place.spread is not None else ""
            behind = "" if place.behind is None else f"{100 * place.behind:+.1f}"
            ends = () if place.interval is None else place.interval
            rows.append(
                ({"test set": test} if len(boards) > 1 else {})
                | {
                    "place": number,
                    "run": place.entry.name,
                    "accuracy, %": f"{100 * place.value:.1f}{sure}",
                    place.entry.by: len(place.entry.values[board.ranked_by]),
                    "behind, points": behind,
                    "95 % interval": " to ".join(f"{100 * end:+.1f}" for end in ends),
                }
            )
    return rows


def outlines(boards: Sequence[Leaderboard]) -> list[dict[str, Any]]:
    """What each entry gives a user, in the order of the boards, as JSON values.

    Returns:
        For each entry `arm` (its name), `test_set`, `runs` (their names), `ships` (names of the models that
        they ship), `seconds` (mean per run), `models` (name -> `Model`), `accuracy` and `gain`. `accuracy`
        has `value` for each of `RIVALS` that was measured, and `behind` with its `interval` and what was
        paired (`by`), relative to the first entry of the same test set; None for that entry itself. `gain` is
        the lead of the shipped model, or else of the student, over the network from scratch: `value`,
        `interval` and `by`; None if one of them was not measured.
    """
    rows = []
    for test, board in enumerate(boards, start=1):
        first = board.places[0].entry
        for place in board.places:
            entry = place.entry
            rows.append(
                {
                    "arm": entry.name,
                    "test_set": test,
                    "runs": entry.runs,
                    "ships": sorted(set(entry.ships)),
                    "seconds": fmean(entry.seconds) if entry.seconds else 0.0,
                    "models": {name: asdict(model) for name, model in entry.models.items()},
                    "accuracy": _accuracies(entry, first),
                    "gain": _gain(entry),
                }
            )
    return rows


def _accuracies(entry: Entry, first: Entry) -> dict[str, dict[str, Any]]:
    """The accuracies of an entry's `RIVALS`, each with its difference to the first entry."""
    found: dict[str, dict[str, Any]] = {}
    for name, at in ACCURACY.items():
        if at not in entry.values:
            continue
        found[name] = {"value": fmean(entry.values[at].values()), "behind": None, "interval": None, "by": ""}
        if entry is not first and at in first.values:
            behind, interval, by = gap(entry, first, at)
            found[name] |= {"behind": behind, "interval": interval, "by": by}
    return found


def _gain(entry: Entry) -> dict[str, Any] | None:
    """What the chain adds to the network from scratch; None if it was not measured."""
    own = next((ACCURACY[name] for name in ("shipped", "student") if ACCURACY[name] in entry.values), None)
    if own is None or ACCURACY["scratch"] not in entry.values:
        return None
    value, interval, by = gap(entry, entry, own, ACCURACY["scratch"])
    return {"value": value, "interval": interval, "by": by}


def write(boards: Sequence[Leaderboard], folder: Path) -> None:
    """Write `leaderboard.parquet`, with every score of every entry, and `leaderboard.html`.

    Args:
        boards: the ranked entries of each test set.
        folder: where to write; made if absent.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[tuple[Any, ...]] = []
    for test, board in enumerate(boards, start=1):
        first = board.places[0].entry
        for place in board.places:
            rows += _rows(place.entry, first, test)
    columns = dict(zip(LEADERBOARD.names, zip(*rows, strict=True), strict=True))
    write_table(folder / "leaderboard.parquet", columns, LEADERBOARD)
    (folder / "leaderboard.html").write_text(render(boards), encoding="utf-8")


def _rows(entry: Entry, first: Entry, test: int) -> list[tuple[Any, ...]]:
    """All scores of an entry, each with the difference to the first entry of the same test set."""
    rows: list[tuple[Any, ...]] = []
    parts = [entry.parts[name] for name in ("pretext", "teacher", "transfer", "student")]
    for at, values in sorted(entry.values.items()):
        behind: tuple[float | None, float | None, float | None] = (None, None, None)
        if entry is not first and at in first.values:
            difference, interval, _ = gap(entry, first, at)
            behind = (difference, *(interval or (None, None)))
        found = list(values.values())
        spread = stdev(found) if len(found) > 1 else None
        rows.append((entry.name, *parts, *at, fmean(found), spread, len(found), entry.n[at], *behind, test))
    return rows


def render(boards: Sequence[Leaderboard]) -> str:
    """The boards as one HTML page that loads nothing."""
    filters: dict[str, Callable[..., str]] = {
        "percent": lambda share: f"{100 * share:.1f}",
        "points": lambda d: f"{100 * d:+.1f}",
        "minutes": lambda seconds: f"{seconds / 60:.1f}",
        "megabytes": lambda size: f"{size / 1e6:.1f}",
        "millions": lambda count: f"{count / 1e6:.2f}",
    }
    template = templates.load("leaderboard.html.j2", filters)
    entries = [place.entry for board in boards for place in board.places]
    ranked = {board.ranked_by for board in boards}
    measured = dict.fromkeys(at for entry in entries for at in entry.values)
    shown = [at for at in measured if at[2] == "top1" and at not in ranked]
    shown.sort(key=lambda at: (at[1], at[0], at[3]))
    means: dict[str, dict[Column, float]] = {}
    for entry in entries:
        means[entry.name] = {at: fmean(values.values()) for at, values in entry.values.items()}
    places = [place for board in boards for place in board.places]
    return template.render(
        boards=boards,
        apart=apart(boards),
        shown=shown,
        means=means,
        outlines=outlines(boards),
        by=entries[0].by,
        rivals=RIVALS,
        top=max(place.high or place.value + (place.spread or 0) for place in places),
        light=figures.LIGHT,
        dark=figures.DARK,
    )
