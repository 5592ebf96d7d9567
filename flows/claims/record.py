"""What has been found on a claim by now: a JSON file, and the page made of all of them."""

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
from flows.phrases import duration
from flows.recipes import override
from tasks.config import Config


@dataclass
class Record:
    """The scores of a claim's arms at a scale.

    Attributes:
        claim: its name.
        scale: of the trainings.
        command: that made it.
        arms: arm -> configuration (without seed, places and devices), and seed -> score, the run's
            name, of what the score is (`claim.Score`), and the seconds that its stages took to compute, whenever that was
            (None where they stood still in between).
        libraries: versions of what scores depend on, at the last run.
        threads: that a run computed with, at the last one; None: not known.
    """

    claim: str
    scale: Scale
    command: str
    arms: dict[str, dict[str, Any]] = field(default_factory=dict)
    libraries: dict[str, str] = field(default_factory=dict)
    threads: int | None = None

    def scores(self) -> dict[str, dict[int, float]]:
        """Score by arm and seed."""
        return {
            name: {int(seed): found["value"] for seed, found in arm["seeds"].items()} for name, arm in self.arms.items()
        }

    def judged(self) -> list[Judged]:
        """The claim's tests, decided."""
        scores = self.scores()
        return [test.judge(scores) for test in CLAIMS[self.claim].tests]

    def keep(self, arm: str, config: Mapping[str, Any], seed: int, found: dict[str, Any]) -> None:
        """Enter a score; those of another configuration, or of something else, are dropped."""
        if not _same(self.arms.get(arm, {}).get("config"), config):
            self.arms[arm] = {"config": dict(config), "seeds": {}}
        of = found.get("score")
        others = {name: known for name, known in self.arms[arm]["seeds"].items() if known.get("score", of) == of}
        self.arms[arm]["seeds"] = others | {str(seed): found}

    def has(self, arm: str, config: Mapping[str, Any], seed: int, score: Score) -> bool:
        """Whether this score of a run is here already; one that does not say of what it is counts as this."""
        known = self.arms.get(arm, {})
        if not _same(known.get("config"), config) or str(seed) not in known["seeds"]:
            return False
        return bool(known["seeds"][str(seed)].get("score", asdict(score)) == asdict(score))

    def write(self, folder: Path) -> None:
        """To `folder/<claim>-<scale>.json`, with the verdict for whoever reads only that."""
        claim, judged = CLAIMS[self.claim], self.judged()
        told = {"verdict": claim.verdict(judged), "tests": [asdict(test) for test in judged]}
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path_of(folder, self.claim, self.scale), asdict(self) | told)


def _same(known: Mapping[str, Any] | None, asked: Mapping[str, Any]) -> bool:
    """Whether a recorded configuration asks for the same. Keys that came or went since count as left at their defaults."""
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
    """Where a record lies."""
    return folder / f"{claim}-{scale}.json"


def read(folder: Path, claim: str, scale: Scale, command: str) -> Record:
    """The record so far, or an empty one."""
    path = path_of(folder, claim, scale)
    known = json.loads(path.read_text()) if path.exists() else {}
    return Record(claim, scale, command, known.get("arms", {}), known.get("libraries", {}), known.get("threads"))


def _found(folder: Path) -> dict[tuple[str, Scale], Record]:
    """Claim and scale -> record, of those that are there."""
    scales: tuple[Scale, ...] = ("cpu", "gpu")
    return {
        (name, scale): Record(**{key: told[key] for key in Record.__dataclass_fields__ if key in told})
        for name in CLAIMS
        for scale in scales
        if (path := path_of(folder, name, scale)).exists()
        for told in [json.loads(path.read_text())]
    }


def picture(folder: Path) -> bytes:
    """All tests that have an interval, as PNG: it, and the range in which it was to lie.

    Args:
        folder: of records.
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
            rows.append(Contrast(label, 100 * judged.mean, 100 * judged.low, 100 * judged.high, least, most, colours[judged.verdict]))  # fmt: skip
    return contrasts_png(rows)


def page(folder: Path, picture: str | None = None) -> str:
    """All claims as Markdown: what a paper says, what came out here, and the verdict.

    Args:
        folder: of records.
        picture: where that of `picture` lies, as a link; None: it is left out.
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
        lines += ["", f"## {name}", "", f"{claim.paper}: {claim.statement}", "", f"The paper: {claim.figure}.", ""]
        of_claim = [record for (other, _), record in found.items() if other == name]
        if not of_claim:
            lines.append(f"Not run yet: `knowledge-transfer reproduce {name} --dry-run` says what it takes.")
        for record in of_claim:
            lines += _section(claim, record)
        if claim.caution:
            lines += ["", claim.caution]
    return "\n".join(lines) + "\n"


_INTRODUCTION = (
    "Generated by `knowledge-transfer reproduce`; edit `flows/claims/` instead. An arm is a whole run of the "
    "chain; equal seeds pair the arms. A test holds where the 95 % interval (Student's t over seeds) of its "
    "contrast lies where the claim says, does not hold where it lies elsewhere, and can't be told where it lies "
    "across the border. Scores are shares of the test images, in per cent. Intervals are not corrected for the "
    "number of tests: of twenty that are on the border of truth one comes out wrong. At the cpu scale trainings "
    "take minutes, and what only shows in long ones can't show."
)
"""On one line: Prefect's pages break where a text does."""
_LEGEND = "Each test's contrast with its 95 % interval, and shaded where the claim says that it lies. Green: it holds; orange: it does not; grey: can't be told."  # fmt: skip


def _parts(judged: Sequence[Judged]) -> str:
    """How a claim's tests came out, where they differ."""
    words: dict[Verdict, str] = {"holds": "held", "does not hold": "failed", "can't be told": "open"}
    count = Counter(test.verdict for test in judged)
    told = ", ".join(f"{count[verdict]} {word}" for verdict, word in words.items() if count[verdict])
    return f" (tests: {told})" if len(count) > 1 else ""


def _section(claim: Claim, record: Record) -> list[str]:
    threads = f" ({record.threads} thread{'s' * (record.threads > 1)})" if record.threads else ""
    lines = [
        f"Scale {record.scale}, `{record.command}`:",
        "",
        f"| arm | score | seeds | a run{threads} |",
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
        lines.append(f"| {arm.name} | {100 * fmean(values):.1f}{spread} ({score.evaluation} of {score.model}: {each}) | {len(values)} | {took} |")  # fmt: skip
    lines += ["", "| test | contrast, points | 95 % interval | verdict |", "| --- | --- | --- | --- |"]
    for test in record.judged():
        if test.mean is None or test.low is None or test.high is None:
            lines.append(f"| {test.text} | | | {test.verdict} |")
        else:
            lines.append(f"| {test.text} | {100 * test.mean:+.1f} | {100 * test.low:+.1f} to {100 * test.high:+.1f} | **{test.verdict}** |")  # fmt: skip
    return lines


def write_page(folder: Path, target: Path, image: Path) -> None:
    """The page and its picture.

    Args:
        folder: of records.
        target: the page.
        image: the picture, in the page's folder or below.
    """
    image.write_bytes(picture(folder))
    target.write_text(page(folder, image.relative_to(target.parent).as_posix()))


if __name__ == "__main__":  # python -m flows.claims.record FOLDER docs/claims.md docs/images/claims.png
    write_page(*(Path(word) for word in sys.argv[1:]))
