"""Claims: each one can be run, scores decide it, and a run's results are recorded."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Command
from in_process import photographs

from data.errors import ArtifactError, ConfigError, StageError
from data.intervals import paired
from flows.__main__ import main
from flows.claims import CLAIMS, costs, images_of, named, resolved
from flows.claims.claim import Arm, Claim, Score, Statement, above, alike, gains_less
from flows.claims.settings import SOURCES
from flows.estimate import estimate, estimate_claims
from flows.recipes import recipe
from models.pace import Pace
from models.trials import Measured
from tasks.config import Config
from tasks.found import on_photographs

ARMS = [(claim, arm) for claim in CLAIMS.values() for arm in claim.arms]


@pytest.mark.parametrize("scale", ["cpu", "gpu"])
@pytest.mark.parametrize(("claim", "arm"), ARMS, ids=lambda value: value.name)
def test_every_arm_is_a_configuration(claim: Claim, arm: Arm, scale: Any) -> None:
    config = resolved(claim, arm, scale, {"cifar10": "folder:a", "imagenette": "folder:b"})
    assert not any("{" in str(source) for source in (*config.data, config.cluster.data, config.assign.data))
    assert config.data.train in ("folder:a", "folder:b")
    model = claim.score_of(arm).model
    needed = {"teacher": "pretext", "student-transferred": "transfer", "student": "distill"}.get(
        model, "finetune"
    )
    if claim.score_of(arm).evaluation in on_photographs():
        needed = "transfer"
    order = ("pretext", "transfer", "finetune", "distill")
    assert order.index(config.until) >= order.index(needed)


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=lambda claim: claim.name)
def test_every_claim_compares_arms_of_its_own_that_differ(claim: Claim) -> None:
    names = [arm.name for arm in claim.arms]
    assert len(set(names)) == len(names)
    for test in claim.tests:
        assert set(test.weights) <= set(names)
        assert sum(test.weights.values()) == 0
        assert (test.low, test.high) != (None, None)
    told = {
        (resolved(claim, arm, "cpu", {}).model_dump_json(exclude={"recipe"}), claim.score_of(arm))
        for arm in claim.arms
    }
    assert len(told) == len(names)


def test_an_unknown_claim_or_place_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="s2bnn-strategies"):
        named(["s3bnn"])
    with pytest.raises(ConfigError, match="imagenette-test"):
        resolved(CLAIMS["transfer-jigsaw"], CLAIMS["transfer-jigsaw"].arms[0], "cpu", {"imagenet": "digits"})
    for words, said in (
        (["reproduce", "s3bnn"], "s3bnn"),
        (["reproduce", "--images", "cifar=digits"], "cifar10-test"),
        (["reproduce", "--images", "cifar10"], "NAME=SOURCE"),
        (["reproduce", "--seeds", "0"], "--seeds 0"),
        (["reproduce", "--scale", "tpu"], "tpu"),
    ):
        assert main(words) == 2
        assert said in capsys.readouterr().err


def test_a_dry_run_prices_every_claim(tmp_path: Path) -> None:
    chosen = [CLAIMS["simclrv2-distillation"], CLAIMS["transfer-deeper"]]
    pace = Pace(trial=lambda work: Measured(work, 0.5))
    one, three = (estimate_claims(chosen, "cpu", n, {}, str(tmp_path), pace=pace) for n in (1, 3))
    # The three arms of distillation are scores of one run. So are two of the three arms of transfer-deeper.
    assert [row["runs"] for row in one] == [1, 2]
    assert [row["runs"] for row in three] == [3, 6]
    assert three[0]["cpu_hours"] == pytest.approx(3 * one[0]["cpu_hours"])
    assert set(SOURCES) == {"cifar10", "cifar10-test", "imagenette", "imagenette-test", "bccd", "penn-fudan"}


def test_a_dry_run_counts_what_arms_share_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.pace.IGNORED", 0.0)
    claim, store = CLAIMS["s2bnn-strategies"], str(tmp_path)
    pace = Pace(trial=lambda work: Measured(work, 0.5))
    (together,) = estimate_claims([claim], "cpu", 1, {}, store, pace=pace)
    expected, counted = 0.0, set[str]()
    for arm in claim.arms:
        config = resolved(claim, arm, "cpu", {}).model_copy(update={"store": store})
        found = estimate(config, pace=pace)
        expected += found.starting
        own = {"transfer-activations"}
        for row in found.rows:  # in the order in which they are made
            if own & {row.stage, *row.reads}:
                own.add(row.stage)
            if row.stage in own or row.stage not in counted:
                expected += row.seconds
            counted.add(row.stage)
        assert {"transfer", "evaluate-student-transferred"} <= own
        assert not {"manifest", "pretext"} & own
    assert together["cpu_hours"] == pytest.approx(expected / 3600)


def test_a_dry_run_on_a_busy_machine_says_what_the_load_takes(tmp_path: Path) -> None:
    def priced(load: float) -> list[dict[str, Any]]:
        pace = Pace(trial=lambda work: Measured(work, 0.5, load=load))
        return estimate_claims([CLAIMS["s2bnn-strategies"]], "cpu", 3, {}, str(tmp_path), pace=pace)

    quiet, busy = priced(1.0), priced(10.0)
    assert quiet[0]["cpu_hours_alone"] == quiet[0]["cpu_hours"] == pytest.approx(busy[0]["cpu_hours"])
    assert busy[0]["cpu_hours_alone"] == pytest.approx(quiet[0]["cpu_hours"] / 10, rel=0.05)
    assert "under load" not in costs(quiet)
    assert "of the CPU was taken by other programs. Without them, all would take" in costs(busy)


@pytest.mark.parametrize("values", [[0.01, 0.02, 0.03], [0.5, -0.5], [0.1, 0.1, 0.1, 0.11, 0.4]])
def test_the_interval_is_students(values: list[float]) -> None:
    from scipy import stats

    mean, low, high = paired(values)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert mean == pytest.approx(sum(values) / len(values))
    assert (low, high) == pytest.approx((expected.low, expected.high))


def test_one_difference_has_no_interval() -> None:
    with pytest.raises(ValueError, match="two values"):
        paired([0.1])


@pytest.mark.parametrize(
    ("test", "a", "b", "verdict"),
    [
        (above("a", "b"), [0.60, 0.61, 0.62], [0.50, 0.51, 0.53], "holds"),
        (above("a", "b"), [0.50, 0.51, 0.53], [0.60, 0.61, 0.62], "does not hold"),
        (above("a", "b"), [0.60, 0.40, 0.62], [0.50, 0.51, 0.53], "can't be told"),
        (above("a", "b"), [0.60], [0.50], "can't be told"),
        (alike("a", "b", 0.02), [0.501, 0.512, 0.531], [0.50, 0.51, 0.53], "holds"),
        (alike("a", "b", 0.02), [0.60, 0.61, 0.63], [0.50, 0.51, 0.53], "does not hold"),
        (alike("a", "b", 0.02), [0.40, 0.41, 0.43], [0.50, 0.51, 0.53], "does not hold"),
        (alike("a", "b", 0.02), [0.52, 0.535, 0.545], [0.50, 0.51, 0.53], "can't be told"),
        (gains_less("a", "b", 0.01), [0.40, 0.41, 0.43], [0.50, 0.51, 0.53], "holds"),
        (gains_less("a", "b", 0.01), [0.60, 0.61, 0.63], [0.50, 0.51, 0.53], "does not hold"),
    ],
)
def test_scores_decide(test: Statement, a: list[float], b: list[float], verdict: str) -> None:
    scores = {"a": dict(enumerate(a)), "b": dict(enumerate(b))}
    assert test.judge(scores).verdict == verdict


def test_a_difference_of_differences_and_seeds_that_only_some_arms_have() -> None:
    test = Statement("gains more", {"a": 1.0, "b": -1.0, "c": -1.0, "d": 1.0}, low=0.0)
    scores = {
        "a": {0: 0.6, 1: 0.7, 2: 0.9},
        "b": {0: 0.5, 1: 0.6},
        "c": {1: 0.8, 0: 0.8},
        "d": {0: 0.78, 1: 0.77},
    }
    judged = test.judge(scores)
    assert judged.contrasts == pytest.approx([0.08, 0.07])
    assert judged.mean == pytest.approx(0.075)
    assert test.judge({}).verdict == "can't be told"


def test_a_claim_holds_where_all_of_it_does() -> None:
    claim = CLAIMS["s2bnn-strategies"]
    holds, fails, open_ = (
        test.judge({"a": dict(enumerate(a)), "b": dict(enumerate(b))})
        for test, a, b in (
            (above("a", "b"), [0.6, 0.61], [0.5, 0.51]),
            (above("b", "a"), [0.6, 0.61], [0.5, 0.51]),
            (above("a", "b"), [0.6, 0.4], [0.5, 0.5]),
        )
    )
    assert claim.verdict([holds, holds]) == "holds"
    assert claim.verdict([holds, open_]) == "can't be told"
    assert claim.verdict([open_, fails]) == "does not hold"


ROWS = [
    {
        "evaluation": "knn",
        "model": "teacher",
        "metric": "top1",
        "setting": "k=20 T=0.07 layer=features",
        "value": 0.4,
    },
    {
        "evaluation": "knn",
        "model": "teacher",
        "metric": "top1",
        "setting": "k=200 T=0.07 layer=features",
        "value": 0.3,
    },
    {"evaluation": "linear", "model": "teacher", "metric": "top1", "setting": "layer=features", "value": 0.5},
]


def test_the_score_that_counts() -> None:
    assert Score("knn", "teacher", setting="k=200 ").of(ROWS) == 0.3
    assert Score("knn", "teacher").of(ROWS) == 0.4
    with pytest.raises(ArtifactError, match="few-label"):
        Score("few-label", "student").of(ROWS)


class Runs:
    """A stand-in for the flow `knowledge_transfer` that records its configurations and returns scores."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[tuple[Config, int]] = []
        self.broken: set[str] = set()
        import flows.reproduce

        monkeypatch.setattr(flows.reproduce, "knowledge_transfer", self)
        monkeypatch.setattr(flows.reproduce, "create_markdown_artifact", lambda *_, **__: None)
        monkeypatch.setattr(flows.reproduce, "get_run_logger", lambda: self)
        monkeypatch.setattr(flows.reproduce, "_look", lambda *_: None)

    def error(self, *said: object) -> None:
        return None

    def __call__(self, recipe: str, seed: int, store: str) -> dict[str, Any]:
        config = globals()["recipe"](recipe)
        self.asked.append((config, seed))
        if config.recipe in self.broken:
            raise StageError("out of memory")
        value = {"soft": 0.62, "hard": 0.6}[config.recipe.removeprefix("swav-codes-")] + seed / 1000
        stages = [
            {"cached": False, "seconds": 3.0, "computed_in": 2.5},
            {"cached": True, "seconds": 0.1, "computed_in": 9.0},
        ]
        score = {
            "evaluation": "linear",
            "model": "teacher",
            "metric": "top1",
            "setting": "",
            "value": value,
            "n": 10,
        }
        return {"scores": [score], "stages": stages, "run": f"{config.recipe}-{seed}"}


def test_arms_run_once_per_seed_and_only_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.claims.record import page, read

    runs = Runs(monkeypatch)
    out = tmp_path / "out"

    def reproduce(**over: Any) -> dict[str, Any]:
        given = {"claims": ["swav-codes"], "seeds": 2, "out": str(out)} | over
        import flows.reproduce

        result: dict[str, Any] = flows.reproduce.reproduce.fn(**given)
        return result

    result = reproduce()
    assert [(config.recipe, seed) for config, seed in runs.asked] == [
        ("swav-codes-soft", 0), ("swav-codes-hard", 0), ("swav-codes-soft", 1), ("swav-codes-hard", 1)
    ]  # fmt: skip
    assert [config.pretext.hard_codes for config, _ in runs.asked] == [False, True, False, True]  # type: ignore[union-attr]
    assert result["verdicts"] == {"swav-codes": "holds"}
    record = read(out, "swav-codes", "cpu", "")
    assert record.scores() == {"soft": {0: 0.62, 1: 0.621}, "hard": {0: 0.6, 1: 0.601}}
    assert record.arms["soft"]["seeds"]["0"]["seconds"] == 11.5
    written = page(out)
    assert "| [swav-codes](#swav-codes) | SwAV | **holds** | cpu | 2 |" in written
    assert "| soft > hard | +2.0 | +2.0 to +2.0 | **holds** |" in written
    assert "62.0" in written
    assert written.count("not run yet") == len(CLAIMS) - 1
    assert (out / "claims.md").read_text() == page(out, "claims.png")
    assert (out / "claims.png").read_bytes().startswith(b"\x89PNG")

    runs.asked.clear()
    reproduce()
    assert not runs.asked
    reproduce(seeds=3)
    assert [seed for _, seed in runs.asked] == [2, 2]
    runs.asked.clear()
    reproduce(sources={"cifar10": "folder:elsewhere"})  # other images, so everything is recomputed
    assert len(runs.asked) == 4


def test_a_record_outlives_new_keys_of_the_configuration(tmp_path: Path) -> None:
    from flows.claims.record import read

    claim = CLAIMS["swav-codes"]
    asked = resolved(claim, claim.arms[1], "cpu", {}).model_dump(mode="json")
    record = read(tmp_path, "swav-codes", "cpu", "")
    older = json.loads(json.dumps(asked))
    del older["evaluate"]["layer_rates"], older["pretext"]["queue"]
    older["evaluate"]["gone_since"] = 3
    record.keep("hard", older, 0, {"value": 0.5, "seconds": 1.0, "run": "a"})
    score = claim.score
    assert record.has("hard", asked, 0, score)
    assert not record.has("hard", asked, 1, score)
    assert not record.has("hard", asked | {"image": 1}, 0, score)  # new, and no default to compare with
    asked["pretext"]["queue"] = 512  # new, and not at its default
    assert not record.has("hard", asked, 0, score)
    asked["pretext"]["queue"], asked["pretext"]["epochs"] = 0, 9
    assert not record.has("hard", asked, 0, score)


def test_the_page_counts_how_the_tests_of_a_claim_came_out(tmp_path: Path) -> None:
    from flows.claims.record import page, read

    record = read(tmp_path, "s2bnn-strategies", "cpu", "")
    values = {"distill": (0.50, 0.51), "contrastive+distill": (0.40, 0.41), "contrastive": (0.30, 0.50)}
    for arm, scores in values.items():
        for seed, value in enumerate(scores):
            record.keep(arm, {}, seed, {"value": value, "seconds": None, "run": "a"})
    record.write(tmp_path)
    line = (
        "| [s2bnn-strategies](#s2bnn-strategies) | S2-BNN | **can't be told** (tests: 1 held, 1 open)"
        " | cpu | 2 |"
    )
    assert line in page(tmp_path)


def test_a_score_of_something_else_is_not_taken_for_this_one(tmp_path: Path) -> None:
    from flows.claims.record import read

    claim = CLAIMS["swav-codes"]
    record = read(tmp_path, "swav-codes", "cpu", "")
    linear, knn = claim.score, Score("knn", "teacher")
    record.keep("hard", {}, 0, {"value": 0.5, "score": asdict(linear), "seconds": 1.0, "run": "a"})
    assert record.has("hard", {}, 0, linear)
    assert not record.has("hard", {}, 0, knn)
    record.keep("hard", {}, 1, {"value": 0.4, "score": asdict(knn), "seconds": 1.0, "run": "b"})
    assert record.scores() == {"hard": {1: 0.4}}


def test_an_arm_that_fails_leaves_the_others_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.claims.record import page, read

    runs = Runs(monkeypatch)
    runs.broken.add("swav-codes-soft")
    with pytest.raises(StageError, match="swav-codes soft seed 0: out of memory"):
        import_module("flows.reproduce").reproduce.fn(claims=["swav-codes"], seeds=1, out=str(tmp_path))
    assert read(tmp_path, "swav-codes", "cpu", "").scores() == {"hard": {0: 0.6}}
    assert "| soft | not run yet | 0 | |" in page(tmp_path)


def test_the_page_is_the_newest_records() -> None:
    from flows.claims.record import page

    newest = sorted((ROOT / "benchmarks" / "records").glob("*_claims"))[-1]
    assert (ROOT / "docs" / "claims.md").read_text() == page(newest, "images/claims.png")
    assert not [path.name for path in newest.glob("*.json") if "/" in json.loads(path.read_text())["command"]]


def test_images_that_are_not_there_are_missed_before_anything_runs(command: Command, tmp_path: Path) -> None:
    photographs(tmp_path / "photographs", each=2)
    names = ("cifar10", "cifar10-test", "imagenette", "imagenette-test")
    images = [f"--images={name}=folder:{tmp_path / 'photographs'}" for name in names]
    done = command(
        "reproduce", "transfer-across", "transfer-downstream", *images, "--store", str(tmp_path / "store")
    )
    assert done.returncode == 2
    assert "images bccd: voc:BCCD" in done.stderr.splitlines()[-1]
    assert "--images bccd=SOURCE" in done.stderr.splitlines()[-1]
    assert not list((tmp_path / "store").glob("runs/*"))


def test_a_dry_run_needs_no_images(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    unmeasured = Pace(trial=lambda work: None)
    found = estimate_claims(list(CLAIMS.values()), "cpu", 1, {}, str(tmp_path / "store"), pace=unmeasured)
    assert [row["claim"] for row in found] == list(CLAIMS)
    assert all(row["cpu_hours"] > 0 for row in found)
    assert images_of([CLAIMS["transfer-downstream"]], "cpu") == [
        "imagenette",
        "imagenette-test",
        "bccd",
        "penn-fudan",
    ]
    assert set(images_of(CLAIMS.values(), "gpu")) == set(SOURCES)
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_a_claim_is_put_to_the_test_by_real_runs(command: Command, tmp_path: Path) -> None:
    from flows.claims.record import read

    photographs(tmp_path / "photographs", each=150)
    images = [f"--images={name}=folder:{tmp_path / 'photographs'}" for name in ("cifar10", "cifar10-test")]
    words = ["reproduce", "swav-codes", "--seeds", "2", *images, "--store", str(tmp_path / "store"), "--json"]
    done = command(*words, timeout=600)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert set(result["verdicts"]) == {"swav-codes"}
    record = read(tmp_path / "store" / "claims", "swav-codes", "cpu", "")
    assert {name: set(seeds) for name, seeds in record.scores().items()} == {"soft": {0, 1}, "hard": {0, 1}}
    runs = sorted(path.name for path in (tmp_path / "store" / "runs").iterdir())
    assert len(runs) == 4
    by_hand = recipe(str(tmp_path / "store" / "claims" / "recipes" / "swav-codes-hard.yaml"))
    assert by_hand.pretext.hard_codes  # type: ignore[union-attr]
    again = command(*words)
    assert json.loads(again.stdout)["verdicts"] == result["verdicts"]
    assert len(list((tmp_path / "store" / "runs").iterdir())) == 4
