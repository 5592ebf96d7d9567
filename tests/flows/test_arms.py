"""Arms of a comparison: how they are named and refused, what they share, and what the page says of each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY, Command, settings
from foreign_weights import timm_folder

from data.schemas import OUTCOMES
from data.tables import write_table
from data.types import Artifact
from flows.__main__ import main
from flows.recipes import override, recipe
from flows.variants import configurations, drawn, named_arms, standings
from tasks.report.leaderboard import ACCURACY, Entry, Model, leaderboards, outlines, render
from tasks.stages import labels

MANIFEST = Artifact(kind="manifest", fingerprint="0" * 64)
PARTS = {"pretext": "simclr", "teacher": "x", "transfer": "y", "student": "z"}


def test_arms_are_variants_of_one_recipe_with_names() -> None:
    arms = named_arms([["plain"], ["more", "cluster.k=50", "pretext.method=moco"]])
    found = configurations(["digits"], {}, {"seed": "3"}, arms)
    assert list(found) == ["plain", "more"]
    plain = override(recipe("digits"), {"seed": 3}).model_dump()
    assert found["plain"].model_dump() == {**plain, "recipe": "digits-plain"}
    assert (found["more"].cluster.k, found["more"].pretext.method, found["more"].seed) == (50, "moco", 3)
    # A recipe's name as a label would lay the whole configuration over that recipe again.
    assert configurations(["digits"], {}, {}, named_arms([["cifar10"], ["b", "cluster.k=9"]]))[
        "cifar10"
    ].recipe == ("digits-cifar10")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--arm", "own", "cluster.k=50"], "'own' is the only arm"),
        (["--arm", "a", "cluster.k=50", "--arm", "a", "cluster.k=60"], "--arm a: this name is given twice"),
        (["--arm", "a", "--arm", "b"], "'a' and 'b' are the same"),
        (["--arm", "a/b", "cluster.k=5", "--arm", "a-b", "cluster.k=6"], "'a/b' and 'a-b' are the same"),
        (["--arm", "a", "--arm", "cluster.k=50"], "--arm cluster.k=50: the first word is the arm's name"),
        (["--arm", "a", "--arm", "b", "cluster"], "--arm b 'cluster': write it as section.key=value"),
        (["--arm", "a", "--arm", "b", "cluster.many=5"], "--arm b: unknown key cluster.many = 5"),
        (["--arm", "a", "--arm", "b", "cluster.k=few"], "--arm b: cluster.k = 'few'"),
        (["--arm", "a", "--arm", "b", "seed=4"], "--arm b: all arms have the same seed"),
        (
            ["--arm", "a", "--arm", "b", "data.label_seed=4"],
            "--arm b: all arms have the same data.label_seed",
        ),
        (["--arm", "a", "--vary", "cluster.k=5,6"], "no --vary"),
        (["cifar10", "--arm", "a"], "give one recipe"),
        (
            ["--arm", "a", "--arm", "b", "pretext.method=pretrained", "pretext.weights=nowhere.pth"],
            "--arm b: pretext.weights = nowhere.pth: there is no such file",
        ),
        (["--arm", "a", "--arm", "b", "cluster.k=5", "--draws", "0"], "--draws 0"),
        (["--arm", "a", "--arm", "b", "cluster.k=5", "--draws", "2", "--seeds", "2"], "give one of them"),
    ],
)
def test_bad_arms_are_refused_before_any_work(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    assert main(["compare", "digits", *words, "--store", str(store)]) == 2
    assert said in capsys.readouterr().err
    assert not store.exists()


def test_draws_are_consecutive_and_the_first_is_the_runs_own() -> None:
    config = override(recipe("photos"), {"seed": 3})
    draws = [drawn(config, number) for number in range(3)]
    assert [draw.data.label_seed for draw in draws] == [3, 4, 5]
    assert draws[0].plan.keep == config.plan.keep  # or each draw would be planned, and trained, by itself
    requests = [labels.plan(each, MANIFEST) for each in (config, *draws)]
    assert requests[0] == requests[1]
    assert len({request.seed for request in requests}) == 3
    own = override(recipe("digits"), {"data": {"label_seed": 7}})
    assert [drawn(own, number).data.label_seed for number in range(2)] == [7, 8]


def score(name: str, value: float) -> dict[str, Any]:
    at = zip(("evaluation", "model", "metric", "setting"), ACCURACY[name], strict=True)
    return dict(at) | {"value": value, "n": 400, "split": "test"}


def entry(name: str, *runs: tuple[float, float, float], by: Any = "draws") -> Entry:
    """An arm with the accuracies of shipped, student and scratch of each run."""
    made = Entry(name, PARTS, by=by)
    for number, values in enumerate(runs):
        rows = [score(model, value) for model, value in zip(ACCURACY, values, strict=True)]
        made.enter(f"{name}-{number}", number, rows, [])
        made.seconds.append(60.0 * (number + 1))
        made.ships.append("student" if number else "scratch")
    made.models = {"shipped": Model("smallconv x 0.5", 48, 123_456, 500_000)}
    return made


def test_what_each_arm_gives_is_paired_by_draw() -> None:
    from scipy import stats

    a = entry("a", (0.80, 0.79, 0.60), (0.82, 0.82, 0.66), (0.87, 0.86, 0.64))
    b = entry("b", (0.75, 0.75, 0.60), (0.76, 0.75, 0.66), (0.79, 0.78, 0.64))
    boards = leaderboards([b, a])
    first, second = outlines(boards)
    assert (first["arm"], second["arm"]) == ("a", "b")

    def interval(differences: list[float]) -> Any:
        return pytest.approx(tuple(stats.ttest_1samp(differences, 0).confidence_interval(0.95)))

    behind = second["accuracy"]["shipped"]
    assert behind["value"] == pytest.approx((0.75 + 0.76 + 0.79) / 3)
    assert behind["behind"] == pytest.approx((-0.05 - 0.06 - 0.08) / 3)
    assert behind["interval"] == interval([-0.05, -0.06, -0.08])
    assert behind["by"] == "draws"
    assert first["accuracy"]["shipped"]["behind"] is None
    assert second["accuracy"]["scratch"]["behind"] == pytest.approx(0)
    # The lead over scratch is paired within the arm.
    assert first["gain"]["value"] == pytest.approx((0.20 + 0.16 + 0.23) / 3)
    assert first["gain"]["interval"] == interval([0.20, 0.16, 0.23])
    assert (first["seconds"], first["ships"]) == (120.0, ["scratch", "student"])
    page = render(boards)
    assert "Over several draws" in page
    assert "paired by draw" in page
    assert "0.12 M parameters, 0.5 MB" in page
    result = {"board": [], "arms": [first], "winner": "a", "apart": None, "folder": "f"}
    assert "+19.7 points over scratch" in standings(result)[0]
    assert "2 min 00 s per run; ships scratch or student: smallconv x 0.5 at 48 px" in standings(result)[0]
    assert json.loads(json.dumps(second))["accuracy"]["shipped"]["by"] == "draws"  # as --json prints it


def test_with_one_draw_the_lead_over_scratch_is_paired_by_image(tmp_path: Path) -> None:
    g = np.random.default_rng(0)
    better = g.random(400) < 0.8
    worse = better & (g.random(400) < 0.7)
    made = entry("a", (better.mean(), 0.5, worse.mean()), by="seeds")
    for name, right in (("shipped", better), ("scratch", worse)):
        columns = dict(zip(OUTCOMES.names, ([x] * 400 for x in ACCURACY[name]), strict=False))
        write_table(tmp_path / name, columns | {"index": np.arange(400), "right": right}, OUTCOMES)
        made.enter("a", 0, [], [tmp_path / name])
    (told, _) = outlines(leaderboards([made, entry("b", (0.1, 0.1, 0.1), by="seeds")]))
    assert told["gain"]["by"] == "images"
    assert told["gain"]["value"] == pytest.approx(better.mean() - worse.mean())
    low, high = told["gain"]["interval"]
    assert 0 < low < told["gain"]["value"] < high


def test_without_a_network_from_scratch_there_is_no_lead_over_it() -> None:
    arms = []
    for name in ("a", "b"):
        made = Entry(name, PARTS)
        made.enter(name, 0, [score("student", 0.5)], [])
        arms.append(made)
    boards = leaderboards(arms)
    assert [row["gain"] for row in outlines(boards)] == [None, None]
    assert "What each gives" in render(boards)


@pytest.mark.slow
def test_a_teacher_of_others_against_one_of_our_own(command: Command, tmp_path: Path) -> None:
    """Both arms get the same draws, and the same command again computes nothing."""
    timm_folder(tmp_path / "weights", "test_vit", img_size=32)
    store = str(tmp_path / "store")
    words = [
        "compare",
        "digits",
        "--arm",
        "own",
        "pretext.epochs=1",
        "pretext.width=0.25",
        "--arm",
        "pretrained",
        "pretext.method=pretrained",
        "pretext.weights=weights",
        *settings(*(word for word in TINY if not word.startswith("pretext."))),
        *settings("evaluate.protocols=[few-label]"),
        "--draws",
        "2",
        "--store",
        store,
        "--json",
    ]
    results = []
    for _ in range(2):
        done = command(*words, timeout=1800)
        assert done.returncode == 0, done.stderr
        results.append(json.loads(done.stdout))
    one, two = results
    assert {row["arm"] for row in one["arms"]} == {"own", "pretrained"}
    for row, again in zip(one["arms"], two["arms"], strict=True):
        assert row["accuracy"] == again["accuracy"]
        assert row["seconds"] > 0
        assert row["seconds"] == pytest.approx(again["seconds"])
        assert row["accuracy"].keys() == {"shipped", "student", "scratch"}
        assert row["gain"]["by"] == "draws"
        assert row["models"].keys() == {"teacher", "student", "shipped"}
    foreign = next(row for row in one["arms"] if row["arm"] == "pretrained")
    assert foreign["models"]["teacher"]["image_size"] == 32
    assert foreign["models"]["teacher"]["network"].startswith("timm:test_vit")
    records = [json.loads(path.read_text()) for path in (tmp_path / "store" / "runs").glob("*/run.json")]
    drawn_labels: dict[str, set[str]] = {}
    for record in records:
        made = {row["stage"]: row for row in record["stages"]}
        drawn_labels.setdefault(record["config"]["recipe"], set()).add(made["labels"]["fingerprint"])
    assert drawn_labels["digits-own"] == drawn_labels["digits-pretrained"]
    assert len(drawn_labels["digits-own"]) == 2
    later = sorted(records, key=lambda record: record["started"])[4:]
    assert len(later) == 4
    assert all(row["cached"] for record in later for row in record["stages"])
    pages = list((tmp_path / "store" / "comparisons").glob("*/leaderboard.html"))
    assert len(pages) == 2
    assert all("What each gives" in page.read_text() for page in pages)
