"""The results of testing a claim, kept in a JSON file, and the page written from all of these files."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from data.store import write_json
from flows.claims import CLAIMS
from flows.claims.claim import Claim, Judged, Scale, Score, Verdict
from flows.recipes import override
from tasks.config import Config
from tasks.phrases import duration


@dataclass
class Record:
    """The scores of a claim's arms at one scale.

    Attributes:
        claim: name of the claim.
        scale: scale of the trainings.
        command: the command that made the record.
        arms: arm -> `config`, the configuration without seed, places and devices, and `seeds`. `seeds` has
            for each seed the score's `value`, the name of the `run`, the `score` that was read
            (`claim.Score`), and `seconds`. `seconds` is the time that the run's stages took to compute, in
            this run or an earlier one; None if it was not measured.
        libraries: versions of the libraries that scores depend on, at the last run.
        threads: number of threads that the last run computed with; None if not known.
    """

    claim: str
    scale: Scale
    command: str
    arms: dict[str, dict[str, Any]] = field(default_factory=dict)
    libraries: dict[str, str] = field(default_factory=dict)
    threads: int | None = None

    def scores(self) -> dict[str, dict[int, float]]:
        """The scores as arm -> seed -> score."""
        return {
            name: {int(seed): found["value"] for seed, found in arm["seeds"].items()}
            for name, arm in self.arms.items()
        }

    def judged(self) -> list[Judged]:
        """The results of the claim's tests."""
        scores = self.scores()
        return [test.judge(scores) for test in CLAIMS[self.claim].tests]

    def keep(self, arm: str, config: Mapping[str, Any], seed: int, found: dict[str, Any]) -> None:
        """Store a score of an arm.

        Earlier scores of the arm are dropped if they have another configuration or another `score`.
        """
        if not _same(self.arms.get(arm, {}).get("config"), config):
            self.arms[arm] = {"config": dict(config), "seeds": {}}
        of = found.get("score")
        others = {
            name: known for name, known in self.arms[arm]["seeds"].items() if known.get("score", of) == of
        }
        self.arms[arm]["seeds"] = others | {str(seed): found}

    def has(self, arm: str, config: Mapping[str, Any], seed: int, score: Score) -> bool:
        """Whether the record already has this score of a run.

        Old records do not say which `score` a value is. Such a value is accepted.
        """
        known = self.arms.get(arm, {})
        if not _same(known.get("config"), config) or str(seed) not in known["seeds"]:
            return False
        return bool(known["seeds"][str(seed)].get("score", asdict(score)) == asdict(score))

    def write(self, folder: Path) -> None:
        """Write `folder/<claim>-<scale>.json`, with the verdict and the tests for readers of the file."""
        claim, judged = CLAIMS[self.claim], self.judged()
        judgement = {"verdict": claim.verdict(judged), "tests": [asdict(test) for test in judged]}
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path_of(folder, self.claim, self.scale), asdict(self) | judgement)


def _same(known: Mapping[str, Any] | None, asked: Mapping[str, Any]) -> bool:
    """Whether a recorded configuration is the same as a new one.

    The configuration may have got new keys since, or lost some. These count as being at their defaults.
    """
    if known is None:
        return False
    methods = {name: {"method": asked[name]["method"]} for name in ("pretext", "transfer") if name in asked}
    usual = override(Config(), methods).model_dump(mode="json") if methods else {}

    def same(known: Any, asked: Any, usual: Any) -> bool:
        if not isinstance(known, Mapping) or not isinstance(asked, Mapping):
            return bool(known == asked)
        usual = usual if isinstance(usual, Mapping) else {}
        return all(
            same(known[key], value, usual.get(key)) if key in known else key in usual and value == usual[key]
            for key, value in asked.items()
        )

    return same(known, asked, usual)


def path_of(folder: Path, claim: str, scale: Scale) -> Path:
    """The path of a record."""
    return folder / f"{claim}-{scale}.json"


def read(folder: Path, claim: str, scale: Scale, command: str) -> Record:
    """Read the record of a claim, or make an empty one if there is none."""
    path = path_of(folder, claim, scale)
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return Record(
        claim, scale, command, known.get("arms", {}), known.get("libraries", {}), known.get("threads")
    )


def _found(folder: Path) -> dict[tuple[str, Scale], Record]:
    """All records in a folder, by claim and scale."""
    scales: tuple[Scale, ...] = ("cpu", "gpu")
    return {
        (name, scale): Record(**{key: stored[key] for key in Record.__dataclass_fields__ if key in stored})
        for name in CLAIMS
        for scale in scales
        if (path := path_of(folder, name, scale)).exists()
        for stored in [json.loads(path.read_text(encoding="utf-8"))]
    }


def picture(folder: Path) -> bytes:
    """Draw all tests that have an interval as a PNG: the interval, and the range that the claim states.

    Args:
        folder: folder of records.
    """
    from tasks.report.figures import Contrast, contrasts_png

    colours: dict[Verdict, str] = {"holds": "second", "does not hold": "third", "can't be told": "neutral"}
    rows = []
    for (name, scale), record in _found(folder).items():
        for test, judged in zip(CLAIMS[name].tests, record.judged(), strict=True):
            if judged.mean is None or judged.low is None or judged.high is None:
                continue
            label = f"{name}{'' if scale == 'cpu' else ', gpu'}: {test.text}"
            least, most = (None if end is None else 100 * end for end in (test.low, test.high))
            mean, low, high = 100 * judged.mean, 100 * judged.low, 100 * judged.high
            rows.append(Contrast(label, mean, low, high, least, most, colours[judged.verdict]))
    return contrasts_png(rows)


def page(folder: Path, picture: str | None = None) -> str:
    """All claims as a Markdown page: what the paper says, our results, and the verdict.

    Args:
        folder: folder of records.
        picture: link to the picture of `picture()`; None leaves it out.
    """
    found = _found(folder)
    lines = [
        "# The papers' claims, put to the test",
        "",
        _INTRODUCTION,
        "",
        *((f"![Each test's contrast with its interval]({picture})", "", _LEGEND, "") if picture else ()),
        "| claim | paper | verdict | scale | seeds |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, claim in CLAIMS.items():
        of_claim = [record for (other, _), record in found.items() if other == name]
        if not of_claim:
            lines.append(f"| [{name}](#{name}) | {claim.paper} | not run yet | | |")
        for record in of_claim:
            seeds = min((len(arm["seeds"]) for arm in record.arms.values()), default=0)
            judged = record.judged()
            verdict = f"**{claim.verdict(judged)}**{_parts(judged)}"
            lines.append(f"| [{name}](#{name}) | {claim.paper} | {verdict} | {record.scale} | {seeds} |")
    for name, claim in CLAIMS.items():
        lines += [
            "",
            f"## {name}",
            "",
            f"{claim.paper}: {claim.statement}",
            "",
            f"The paper: {claim.figure}.",
            "",
        ]
        of_claim = [record for (other, _), record in found.items() if other == name]
        if not of_claim:
            lines.append(f"Not run yet: `knowledge-transfer reproduce {name} --dry-run` estimates the cost.")
        for record in of_claim:
            lines += _section(claim, record)
        if claim.caution:
            lines += ["", claim.caution]
    return "\n".join(lines) + "\n"


_INTRODUCTION = (
    "This page is generated by `knowledge-transfer reproduce`; edit `flows/claims/` instead. Each claim is "
    "tested by training several variants, its arms. Each arm is a complete run of the chain, repeated with "
    "several seeds, and arms with the same seed are compared. A contrast is a weighted sum of the arms' "
    "scores, usually the difference of two. Each test states a range for the mean of its contrast. A test "
    "holds if the 95 % interval of the mean (Student's t over seeds) is inside that range. It does not hold "
    'if the interval is outside. Its verdict is "can\'t be told" if the interval crosses a bound of the '
    "range, or if there are fewer than two seeds. Scores are percentages of the test images. Intervals are "
    "not corrected for the number of tests: if the true contrast is exactly at a bound, about one test in "
    "twenty comes out wrong. At cpu scale a training takes minutes, so effects that appear only in long "
    "trainings are not visible."
)
"""This is one line because Prefect's pages show every line break of a text."""
_LEGEND = (
    "Each test's contrast with its 95 % interval. The range that the claim states is shaded. "
    "Green: the test holds. Orange: it does not hold. Grey: it can't be told."
)


def _parts(judged: Sequence[Judged]) -> str:
    """Counts of the verdicts of a claim's tests, or "" if all verdicts are the same."""
    words: dict[Verdict, str] = {"holds": "held", "does not hold": "failed", "can't be told": "open"}
    count = Counter(test.verdict for test in judged)
    counted = ", ".join(f"{count[verdict]} {word}" for verdict, word in words.items() if count[verdict])
    return f" (tests: {counted})" if len(count) > 1 else ""


def _section(claim: Claim, record: Record) -> list[str]:
    threads = f" ({record.threads} thread{'s' * (record.threads > 1)})" if record.threads else ""
    lines = [
        f"Scale {record.scale}, `{record.command}`:",
        "",
        f"| arm | score | seeds | time per run{threads} |",
        "| --- | --- | --- | --- |",
    ]
    for arm in claim.arms:
        seeds = record.arms.get(arm.name, {}).get("seeds", {})
        if not seeds:
            lines.append(f"| {arm.name} | not run yet | 0 | |")
            continue
        score, values = claim.score_of(arm), [found["value"] for found in seeds.values()]
        spread = f" ± {100 * stdev(values):.1f}" if len(values) > 1 else ""
        each = ", ".join(f"{100 * value:.1f}" for value in values)
        timed = [found["seconds"] for found in seeds.values() if found["seconds"] is not None]
        took = duration(fmean(timed)) if timed else "not timed"
        scored = f"{100 * fmean(values):.1f}{spread} ({score.evaluation} of {score.model}: {each})"
        lines.append(f"| {arm.name} | {scored} | {len(values)} | {took} |")
    lines += ["", "| test | contrast, points | 95 % interval | verdict |", "| --- | --- | --- | --- |"]
    for test in record.judged():
        if test.mean is None or test.low is None or test.high is None:
            lines.append(f"| {test.text} | | | {test.verdict} |")
        else:
            interval = f"{100 * test.low:+.1f} to {100 * test.high:+.1f}"
            lines.append(f"| {test.text} | {100 * test.mean:+.1f} | {interval} | **{test.verdict}** |")
    return lines


def write_page(folder: Path, target: Path, image: Path) -> None:
    """Write the page and its picture.

    Args:
        folder: folder of records.
        target: path of the page.
        image: path of the picture, in the page's folder or below it.
    """
    image.write_bytes(picture(folder))
    target.write_text(page(folder, image.relative_to(target.parent).as_posix()), encoding="utf-8")


if __name__ == "__main__":  # python -m flows.claims.record FOLDER docs/claims.md docs/images/claims.png
    write_page(*(Path(word) for word in sys.argv[1:]))
