"""What a claim is: trainings that differ in one thing, and statements that their scores confirm or refute.

Each arm is run once per seed, as a run of the chain. Two arms with the same seed have the same labels, orders
and draws, so their scores are compared in pairs. A test looks at a contrast, which is a weighted sum of the
arms' scores. It asks in which range the mean of the contrast over seeds is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from data.errors import ArtifactError
from data.intervals import paired

Scale = Literal["cpu", "gpu"]
"""cpu: a training takes minutes on two cores. gpu: hundreds of epochs, as is usual for small data sets."""
Verdict = Literal["holds", "does not hold", "can't be told"]


@dataclass(frozen=True)
class Score:
    """Which row of a run's scores is compared.

    Attributes:
        evaluation: knn, linear, few-label, clusters ...
        model: teacher, student-transferred, student ...
        metric: the evaluation's metric.
        setting: the start of the row's setting; the first row that matches is used.
    """

    evaluation: str
    model: str
    metric: str = "top1"
    setting: str = ""

    def of(self, rows: Sequence[Mapping[str, Any]]) -> float:
        """Find the value in the rows of a run's scores.

        Raises:
            ArtifactError: no row matches.
        """
        for row in rows:
            named = (row["evaluation"], row["model"], row["metric"]) == (
                self.evaluation,
                self.model,
                self.metric,
            )
            if named and row["setting"].startswith(self.setting):
                return float(row["value"])
        raise ArtifactError(
            f"the run has no score {self.evaluation} {self.metric} of {self.model} ({self.setting})"
        )


@dataclass(frozen=True)
class Arm:
    """One of the trainings that are compared.

    Attributes:
        name: name of the arm within its claim; must be valid in a file name.
        settings: the settings that differ from the claim's, as nested keys of the configuration.
        score: the arm's score, if it is not the claim's.
    """

    name: str
    settings: Mapping[str, Any]
    score: Score | None = None


@dataclass(frozen=True)
class Statement:
    """A test of a claim: it states that a contrast is above `low`, below `high`, or both.

    Attributes:
        text: the statement in words.
        weights: arm -> weight of its score in the contrast.
        low: lower bound of the contrast, in the unit of the scores (for shares, 0.01 is one point). None: no
            bound.
        high: upper bound of the contrast, in the same unit. None: no bound.
    """

    text: str
    weights: Mapping[str, float]
    low: float | None = None
    high: float | None = None

    def judge(self, scores: Mapping[str, Mapping[int, float]]) -> Judged:
        """Judge the statement by the scores (arm -> seed -> score), over the seeds that all its arms have."""
        seeds = sorted(set.intersection(*(set(scores.get(name, {})) for name in self.weights)))
        found = [sum(weight * scores[name][seed] for name, weight in self.weights.items()) for seed in seeds]
        if len(found) < 2:
            return Judged(self.text, found, None, None, None, "can't be told")
        mean, low, high = paired(found)
        inside = (self.low is None or low > self.low) and (self.high is None or high < self.high)
        outside = (self.low is not None and high < self.low) or (self.high is not None and low > self.high)
        return Judged(
            self.text,
            found,
            mean,
            low,
            high,
            "holds" if inside else "does not hold" if outside else "can't be told",
        )


def above(better: str, worse: str, text: str | None = None) -> Statement:
    """State that `better` scores higher than `worse`."""
    return Statement(text or f"{better} > {worse}", {better: 1.0, worse: -1.0}, low=0.0)


def alike(one: str, other: str, within: float, text: str | None = None) -> Statement:
    """State that the two scores differ by less than `within`."""
    return Statement(
        text or f"{one} = {other} within {_points(within)}", {one: 1.0, other: -1.0}, -within, within
    )


def gains_less(one: str, other: str, than: float, text: str | None = None) -> Statement:
    """State that `one` is better than `other` by less than `than`, or not at all."""
    return Statement(
        text or f"{one} gains less than {_points(than)} on {other}", {one: 1.0, other: -1.0}, high=than
    )


def _points(share: float) -> str:
    return f"{100 * share:g} point{'s' * (share != 0.01)}"


@dataclass(frozen=True)
class Judged:
    """The result of a test.

    Attributes:
        text: the statement that was tested.
        contrasts: one value per seed.
        mean: mean over seeds; None with fewer than two seeds.
        low: lower end of the mean's 95 % interval; None with fewer than two seeds.
        high: upper end of that interval; None with fewer than two seeds.
        verdict: whether the interval is inside the stated range, outside it, or across one of its bounds.
    """

    text: str
    contrasts: list[float]
    mean: float | None
    low: float | None
    high: float | None
    verdict: Verdict


@dataclass(frozen=True)
class Claim:
    """A statement of a paper, and how we test it.

    Attributes:
        name: name on the command line.
        paper: name of the paper.
        statement: the claim in one sentence.
        figure: the numbers that the paper reports.
        score: the score that is compared.
        settings: scale -> the settings that all arms share, as nested keys of the configuration. A source is
            given as a name of `SOURCES` in braces. A scale that is missing can't be run.
        arms: the trainings.
        tests: the statements that must hold.
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
        """The score of an arm that is compared."""
        return arm.score or self.score

    def verdict(self, judged: Sequence[Judged]) -> Verdict:
        """The verdict on the whole claim.

        The claim holds if all tests hold. It does not hold if at least one test does not hold.
        """
        found = {test.verdict for test in judged}
        if "does not hold" in found:
            return "does not hold"
        return "can't be told" if "can't be told" in found else "holds"
