"""Comparison of several runs: which scores are compared, how differences are judged, and the board."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY, Command, settings

from data.errors import ConfigError
from data.intervals import paired_shares
from data.schemas import LEADERBOARD, OUTCOMES
from data.tables import read_table, write_table
from flows.__main__ import main
from flows.variants import configurations, parts, standings
from tasks.report.leaderboard import Entry

AT = ("few-label", "student", "top1", "")
PARTS = {
    "pretext": "simclr",
    "teacher": "smallconv",
    "transfer": "pseudo-labels",
    "student": "smallconv x 0.5",
}


def row(value: float, n: int = 1000, at: tuple[str, ...] = AT) -> dict[str, Any]:
    return dict(zip(("evaluation", "model", "metric", "setting"), at, strict=True)) | {
        "value": value,
        "n": n,
        "split": "test",
    }


def entry(name: str, *values: float, n: int = 1000) -> Entry:
    made = Entry(name, PARTS)
    for seed, value in enumerate(values):
        made.enter(f"{name}-{seed}", seed, [row(value, n)], [])
    return made


def outcomes(path: Path, right: np.ndarray) -> Path:
    index = np.arange(len(right))[::-1]  # any order
    columns = dict(zip(OUTCOMES.names, ([x] * len(right) for x in AT), strict=False)) | {
        "index": index,
        "right": right[index],
    }
    write_table(path, columns, OUTCOMES)
    return path


def test_seeds_pair_runs_and_a_winner_is_called_only_where_there_is_one() -> None:
    from scipy import stats

    from tasks.report.leaderboard import leaderboard

    a, b = entry("a", 0.80, 0.82, 0.84), entry("b", 0.78, 0.80, 0.815)
    board = leaderboard([b, a])
    assert [place.entry.name for place in board.places] == ["a", "b"]
    place = board.places[1]
    expected = stats.ttest_1samp([-0.02, -0.02, -0.025], 0).confidence_interval(0.95)
    assert place.behind == pytest.approx(-0.065 / 3)
    assert place.interval == pytest.approx((expected.low, expected.high))
    assert place.by == "seeds"
    assert board.winner == "a"
    close = leaderboard([a, b, entry("c", 0.85, 0.79, 0.81)])
    assert close.winner is None
    assert close.places[0].spread == pytest.approx(0.02)


def test_one_seed_is_paired_image_by_image(tmp_path: Path) -> None:
    from tasks.report.leaderboard import leaderboard

    g = np.random.default_rng(0)
    first = g.random(500) < 0.8
    second = first & ~(g.random(500) < 0.1)
    a, b = Entry("a", PARTS), Entry("b", PARTS)
    for made, right in ((a, first), (b, second)):
        made.enter(made.name, 0, [row(right.mean(), 500)], [outcomes(tmp_path / made.name, right)])
    board = leaderboard([a, b])
    gap = board.places[1]
    assert gap.by == "images"
    assert gap.behind == pytest.approx(second.mean() - first.mean())
    assert gap.interval is not None
    assert gap.interval[1] < 0
    assert board.winner == "a"
    assert (board.places[0].low, board.places[0].high) != (None, None)
    other = Entry("b", PARTS)
    other.enter("b", 1, [row(second.mean(), 500)], [])  # another seed: nothing to pair
    alone = leaderboard([a, other])
    assert alone.places[1].interval is None
    assert alone.winner is None


@pytest.mark.parametrize(("b", "c", "n"), [(0, 0, 50), (3, 9, 100), (40, 10, 400)])
def test_the_interval_of_paired_shares_covers_what_it_promises(b: int, c: int, n: int) -> None:
    difference, low, high = paired_shares(b, c, n)
    assert difference == pytest.approx((b - c) / n)
    assert low < difference < high
    g = np.random.default_rng(0)
    drawn = g.multinomial(n, [b / n, c / n, 1 - (b + c) / n], 4000)
    inside = [lo <= difference <= hi for _, lo, hi in (paired_shares(int(x), int(y), n) for x, y, _ in drawn)]
    assert np.mean(inside) > 0.93


def test_runs_without_a_score_in_common_have_no_board() -> None:
    from tasks.report.leaderboard import leaderboard

    other = Entry("b", PARTS)
    other.enter("b", 0, [row(0.5, at=("knn", "teacher", "top1", "k=20"))], [])
    with pytest.raises(ValueError, match="in common"):
        leaderboard([entry("a", 0.5), other])


def test_what_is_written(tmp_path: Path) -> None:
    from tasks.report.leaderboard import apart, leaderboards, render, table, write

    a, b = entry("a <b>", 0.80, 0.82), entry("b", 0.70, 0.71)
    for made in (a, b):
        for seed in (0, 1):
            made.enter("x", seed, [row(0.4, at=("knn", "teacher", "top1", "k=20"))], [])
    boards = leaderboards([a, b])
    assert apart(boards) is None
    write(boards, tmp_path)
    found = read_table(tmp_path / "leaderboard.parquet", LEADERBOARD).to_pylist()
    assert {(r["entry"], r["evaluation"]) for r in found} == {
        (e, m) for e in ("a <b>", "b") for m in ("few-label", "knn")
    }
    behind = next(r for r in found if (r["entry"], r["evaluation"]) == ("b", "few-label"))
    assert behind["behind"] == pytest.approx(-0.105)
    assert behind["low"] < behind["behind"] < behind["high"]
    page = (tmp_path / "leaderboard.html").read_text()
    assert page == render(boards)
    assert "Not one ranking" not in page
    assert {r["test_set"] for r in found} == {1}
    assert "a &lt;b&gt;" in page
    assert "a <b>" not in page
    assert "://" not in page
    assert [line["place"] for line in table(boards)] == [1, 2]


def test_runs_with_different_test_sets_are_not_ranked_against_each_other(tmp_path: Path) -> None:
    from tasks.report.leaderboard import apart, leaderboards, outlines, table, write

    def tested(name: str, value: float, n: int, *tests: str) -> Entry:
        made = Entry(name, PARTS)
        for seed, test in enumerate(tests):
            made.enter(name, seed, [row(value, n)], [], test)
        return made

    easy, hard = tested("easy", 0.99, 50, "x", "y"), tested("hard", 0.50, 400, "z", "y")
    better = tested("better", 0.60, 400, "z", "y")
    boards = leaderboards([hard, easy, better])
    assert [[place.entry.name for place in board.places] for board in boards] == [
        ["better", "hard"],
        ["easy"],
    ]
    assert [place.behind for board in boards for place in board.places] == [None, pytest.approx(-0.1), None]
    said = apart(boards) or ""
    assert "2 different test sets" in said
    assert "test set 1, 400 images: better, hard; test set 2, 50 images: easy" in said
    lines = table(boards)
    assert [(line["test set"], line["place"]) for line in lines] == [(1, 1), (1, 2), (2, 1)]
    result = {"board": lines, "winner": None, "apart": said, "folder": "f", "arms": outlines(boards)}
    told = "\n".join(standings(result))
    assert f"warning {said}" in told
    assert "none, these runs are not one ranking" in told
    write(boards, tmp_path)
    page = (tmp_path / "leaderboard.html").read_text()
    assert page.count("<h2>Test set") == 2
    assert "Not one ranking" in page
    found = read_table(tmp_path / "leaderboard.parquet", LEADERBOARD).to_pylist()
    assert {r["entry"]: r["test_set"] for r in found} == {"better": 1, "hard": 1, "easy": 2}
    assert next(r for r in found if r["entry"] == "easy")["behind"] is None


def test_a_test_set_is_known_by_its_images_and_classes_alone(tmp_path: Path) -> None:
    from data.schemas import MANIFEST
    from data.store import Store, digest
    from data.types import Artifact
    from flows.compare import _test_set

    store = Store(tmp_path)

    def named(images: list[tuple[str, str, str, int | None]], classes: list[str]) -> str:
        made = Artifact(kind="manifest", fingerprint=digest([images, classes]))
        split, uri, sha256, label = zip(*images, strict=True)
        columns = {"index": range(len(images)), "uri": uri, "sha256": sha256, "split": split, "label": label}
        columns |= dict.fromkeys(("width", "height"), [8] * len(images))
        with store.draft(made, interrupted=lambda: False, waiting=lambda: None) as draft:
            (draft / "out").mkdir(exist_ok=True)
            write_table(draft / "out" / "images.parquet", columns, MANIFEST)
            store.publish(made, draft, {"classes": classes})
        return _test_set(store, [{"stage": "manifest", **made.model_dump()}])

    train = ("train", "a", "1", 0)
    first = named([train, ("test", "b", "2", 0), ("test", "c", "3", 1)], ["cat", "dog"])
    assert first == named([("test", "c/y", "3", 0), ("test", "b/x", "2", 1)], ["dog", "cat"])
    assert first != named([train, ("test", "b", "2", 0)], ["cat", "dog"])
    assert first != named([train, ("test", "b", "2", 1), ("test", "c", "3", 1)], ["cat", "dog"])
    assert first != named([train, ("test", "b", "2", None), ("test", "c", "3", 1)], ["cat", "dog"])


def test_variants_are_all_combinations_and_named_by_what_differs() -> None:
    found = configurations(
        ["digits"], {"pretext.method": ["simclr", "hog"], "cluster.k": ["20", "40"]}, {"seed": "3"}
    )
    assert list(found) == [f"pretext.method={m} cluster.k={k}" for m in ("simclr", "hog") for k in (20, 40)]
    assert [config.cluster.k for config in found.values()] == [20, 40, 20, 40]
    assert {config.pretext.method for config in found.values()} == {"simclr", "hog"}
    assert parts(found["pretext.method=hog cluster.k=20"])["teacher"] == "none"
    assert list(configurations(["digits", "cifar10"], {}, {})) == ["digits", "cifar10"]
    with pytest.raises(ConfigError, match="only one configuration"):
        configurations(["digits"], {}, {})
    with pytest.raises(ConfigError, match="twice"):
        configurations(["digits"], {"cluster.k": ["20", "20"]}, {})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["compare", "digits"], "only one configuration"),
        (["compare", "digits", "--vary", "cluster.k"], "--vary cluster.k=50"),
        (["compare", "digits", "--vary", "cluster.k=20,many"], "cluster.k = 'many'"),
        (["compare", "digit", "cifar10"], "digit"),
        (["compare", "digits", "cifar10", "--seeds", "0"], "--seeds 0"),
    ],
)
def test_mistakes(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_two_numbers_of_clusters_side_by_side(command: Command, tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    words = [
        "compare",
        "digits",
        "--vary",
        "cluster.k=10,14",
        *settings(*TINY[:-1]),
        "--store",
        store,
        "--json",
    ]
    done = command(*words, timeout=900)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    folder = Path(result["folder"])
    assert {line["run"] for line in result["board"]} == {"cluster.k=10", "cluster.k=14"}
    assert all("to" in line["95 % interval"] for line in result["board"][1:])  # paired by images
    assert (folder / "leaderboard.html").exists()
    runs = [json.loads(path.read_text()) for path in sorted((tmp_path / "store" / "runs").glob("*/run.json"))]
    second = {row["stage"]: row["cached"] for row in max(runs, key=lambda run: run["started"])["stages"]}
    assert second["pretext"]
    assert not second["cluster"]
