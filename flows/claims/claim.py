"""What a claim is: trainings that differ in one thing, and a statement that their scores decide.

Each arm is a run of the chain, one per seed; seeds pair the arms, since equal seeds mean equal labels, orders and draws. A
test is on a contrast, a weighted sum of arms' scores, and asks where its mean over seeds lies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from data.errors import ArtifactError
from data.intervals import paired

Scale = Literal["cpu", "gpu"]
"""cpu: minutes a training on two cores. gpu: the small data sets' usual lengths, hundreds of epochs."""
Verdict = Literal["holds", "does not hold", "can't be told"]


@dataclass(frozen=True)
class Score:
    """Which value of a run's scores counts.

    Attributes:
        evaluation: knn, linear, few-label, clusters ...
        model: teacher, student-transferred, student ...
        metric: of the evaluation.
        setting: how the row's setting begins; the first such row counts.
    """

    evaluation: str
    model: str
    metric: str = "top1"
    setting: str = ""

    def of(self, rows: Sequence[Mapping[str, Any]]) -> float:
        """The value among a run's rows.

        Raises:
            ArtifactError: there is no such row.
        """
        for row in rows:
            named = (row["evaluation"], row["model"], row["metric"]) == (self.evaluation, self.model, self.metric)
            if named and row["setting"].startswith(self.setting):
                return float(row["value"])
        raise ArtifactError(f"the run has no score {self.evaluation} {self.metric} of {self.model} ({self.setting})")


@dataclass(frozen=True)
class Arm:
    """One of the trainings that are compared.

    Attributes:
        name: of the arm within its claim, as a file may be named.
        settings: what differs from the claim's settings, as nested keys of the configuration.
        score: if it is another one than the claim's.
    """

    name: str
    settings: Mapping[str, Any]
    score: Score | None = None


@dataclass(frozen=True)
class Statement:
    """A statement on a contrast: that it lies above `low`, or below `high`, or between.

    Attributes:
        text: the statement, in words.
        weights: arm -> weight of its score in the contrast.
        low: the contrast is to lie above it; None: no bound. In the scores' unit, of shares 0.01 is a point.
        high: and below this.
    """

    text: str
    weights: Mapping[str, float]
    low: float | None = None
    high: float | None = None

    def judge(self, scores: Mapping[str, Mapping[int, float]]) -> Judged:
        """Decide it by arm -> seed -> score, over the seeds that all its arms have."""
        seeds = sorted(set.intersection(*(set(scores.get(name, {})) for name in self.weights)))
        found = [sum(weight * scores[name][seed] for name, weight in self.weights.items()) for seed in seeds]
        if len(found) < 2:
            return Judged(self.text, found, None, None, None, "can't be told")
        mean, low, high = paired(found)
        inside = (self.low is None or low > self.low) and (self.high is None or high < self.high)
        outside = (self.low is not None and high < self.low) or (self.high is not None and low > self.high)
        return Judged(
            self.text, found, mean, low, high, "holds" if inside else "does not hold" if outside else "can't be told"
        )


def above(better: str, worse: str, text: str | None = None) -> Statement:
    """`better` scores higher than `worse`."""
    return Statement(text or f"{better} > {worse}", {better: 1.0, worse: -1.0}, low=0.0)


def alike(one: str, other: str, within: float, text: str | None = None) -> Statement:
    """They differ by less than `within`."""
    return Statement(text or f"{one} = {other} within {_points(within)}", {one: 1.0, other: -1.0}, -within, within)


def gains_less(one: str, other: str, than: float, text: str | None = None) -> Statement:
    """`one` is not better than `other` by as much as `than`."""
    return Statement(text or f"{one} gains less than {_points(than)} on {other}", {one: 1.0, other: -1.0}, high=than)


def _points(share: float) -> str:
    return f"{100 * share:g} point{'s' * (share != 0.01)}"


@dataclass(frozen=True)
class Judged:
    """A test with what decided it.

    Attributes:
        text: of the test.
        contrasts: one a seed.
        mean: over seeds; None below two.
        low: lower end of the mean's 95 % interval.
        high: upper end of it.
        verdict: whether that interval lies where the test says, elsewhere, or on the border.
    """

    text: str
    contrasts: list[float]
    mean: float | None
    low: float | None
    high: float | None
    verdict: Verdict


@dataclass(frozen=True)
class Claim:
    """A statement of a paper and how it is put to the test.

    Attributes:
        name: on the command line.
        paper: whose it is.
        statement: in a sentence.
        figure: what the paper reports.
        score: what is compared.
        settings: scale -> what all arms share, as nested keys of the configuration; sources of images by the names of
            `SOURCES`, in braces. A scale that is missing can't be run.
        arms: the trainings.
        tests: what is to hold.
        caution: what the small scale leaves open, in a sentence or two.
    """

    name: str
    paper: str
    statement: str
    figure: str
    score: Score
    settings: Mapping[Scale, Mapping[str, Any]]
    arms: tuple[Arm, ...]
    tests: tuple[Statement, ...]
    caution: str = ""

    def score_of(self, arm: Arm) -> Score:
        """What counts of an arm."""
        return arm.score or self.score

    def verdict(self, judged: Sequence[Judged]) -> Verdict:
        """Of the whole: it holds where all tests do, and does not where one does not."""
        found = {test.verdict for test in judged}
        if "does not hold" in found:
            return "does not hold"
        return "can't be told" if "can't be told" in found else "holds"
