"""The report shows what went in, loads nothing from outside, and no input can break the page."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from report_sample import EDGES, Page, bare, sample

from data.checkpoints import LogRow
from data.errors import ArtifactError
from data.intervals import difference_interval, wilson
from tasks.phrases import UNITS, duration, percent
from tasks.report import content, document, figures, graph, numbers, scoreboard, sheets
from tasks.report.content import (
    Bought,
    Clusters,
    Counts,
    ModelCost,
    Rejected,
    ReportData,
    StageRow,
)
from tasks.report.scoreboard import Score
from tasks.report.stamp import stamp, write_stamped
from tasks.stage import NotNeeded


@pytest.fixture(scope="module")
def data() -> ReportData:
    return sample()


@pytest.fixture(scope="module")
def page(data: ReportData) -> str:
    from tasks.report.document import render

    return render(data)


# The page


def test_page_is_balanced_and_loads_nothing(page: str) -> None:
    parsed = Page(page)
    for tag, attributes in parsed.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base"), tag
        for name in ("src", "href", "xlink:href", "srcset", "data", "action"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/png;base64,", "#")), (tag, name, value)
        assert not any(name.startswith("on") for name in attributes)
    assert "@import" not in page
    assert set(re.findall(r"url\((.)", page)) <= {"#"}
    policy = next(m for m in parsed.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in str(policy["content"])


def test_ids_are_unique_and_every_link_inside_the_page_has_its_target(page: str) -> None:
    parsed = Page(page)
    ids = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    wanted = {str(a["href"])[1:] for _, a in parsed.tags if "href" in a}
    wanted |= set(re.findall(r"url\(#([^)]+)\)", page))
    wanted |= {str(a["aria-labelledby"]) for _, a in parsed.tags if "aria-labelledby" in a}
    assert wanted <= set(ids)


def test_page_can_be_read_without_seeing_it(page: str) -> None:
    parsed = Page(page)
    assert parsed.all("html")[0]["lang"] == "en"
    assert all(attributes.get("alt") for attributes in parsed.all("img"))
    levels = [int(tag[1]) for tag, _ in parsed.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))
    assert len(parsed.all("caption")) == len(parsed.all("table")) == 7
    labelled = [a for _, a in parsed.tags if a.get("role") == "img"]
    assert all(attributes.get("aria-label") for attributes in labelled)
    assert len(labelled) == 3 + 1 + 1 + 6 + 2  # matrix, confidence; scores, stages, trainings, clusters


def test_equal_data_give_equal_bytes(data: ReportData, page: str) -> None:
    from tasks.report.document import render

    assert render(data) == page


def test_rendering_leaves_matplotlib_as_it_was(data: ReportData) -> None:
    from tasks.report.document import render

    before = dict(figures.mpl.rcParams)
    render(bare(clusters=data.clusters))
    assert dict(figures.mpl.rcParams) == before


def test_headline_says_what_the_scores_say(page: str) -> None:
    words = Page(page).words
    low, high = wilson(351 / 360, 360)
    for text in (
        "97.5\u202f%",
        f"95 % interval {100 * low:.1f}\u202f% to {100 * high:.1f}\u202f%",
        "n = 360 test images",
        "91.1\u202f%",
        "+6.4",
        "With 115 labels and 29 more for validation",
    ):
        assert text.replace("\u202f", " ") in words.replace("\u202f", " ")


def test_score_table_shows_every_score_once(data: ReportData, page: str) -> None:
    rows = Page(page).rows
    first = next(i for i, row in enumerate(rows) if row and row[0] == "Measured")
    models = [name for name in content.MODELS if any(score.model == name for score in data.scores)]
    assert rows[first][1:] == [content.MODELS[name] for name in models]
    shown = [row for row in rows[first + 1 :] if len(row) in (1, 1 + len(models))]
    groups = [row[0] for row in shown if len(row) == 1]
    assert groups == ["Classifier, from the drawn labels", "Linear probe", "kNN"]
    by_place = {(s.model, s.evaluation, s.metric): s.value for s in data.scores}
    measured = [("few-label", "accuracy"), ("few-label", "ece"), ("linear", "accuracy"), ("knn", "accuracy")]
    cells = [row for row in shown if len(row) > 1]
    for row, (evaluation, metric) in zip(cells, measured, strict=True):
        assert row[0].startswith(metric)
        assert row[0].endswith("n = 360")
        for model, cell in zip(models, row[1:], strict=True):
            value = by_place.get((model, evaluation, metric))
            if value is None:
                assert cell.strip() == "–"
            elif metric == "accuracy":
                low, high = wilson(value, 360)
                shares = [f"{100 * share:.1f}\u202f%" for share in (value, low, high)]
                assert cell == f"{shares[0]}{shares[1]} to {shares[2]}"
            else:
                assert cell == f"{value:.4g}"


def test_numbers_of_images_that_differ_stand_with_their_values() -> None:
    from tasks.report.document import render

    scores = tuple(
        Score("knn", model, "top1", "test", "", 0.5, 0, n) for model, n in (("teacher", 8), ("scratch", 4))
    )
    row = next(row for row in Page(render(bare(scores=scores))).rows if row[0].startswith("top1"))
    assert row[0] == "top1"
    assert [cell[-5:] for cell in row[1:]] == ["n = 8", "n = 4"]


def test_what_models_take_is_shown_with_binary_operations_only_where_there_are_some() -> None:
    from tasks.report.document import render

    real = ModelCost("Teacher, pretext only", 8 * 2_500_000, 120_000_000, 0)
    small = ModelCost("Final student (distilled)", 8 * 910, 400_000, 64_000_000, final=True)
    shown = {row[0]: row[1:] for row in Page(render(bare(costs=(real, small)))).rows}
    assert shown["Final student (distilled)"] == ["910\u202fbytes", "400\u202fk", "64\u202fM", "1.4\u202fM"]
    assert shown["Teacher, pretext only"] == ["2.5\u202fMB", "120\u202fM", "0", "120\u202fM"]
    shown = {row[0]: row[1:] for row in Page(render(bare(costs=(real,)))).rows}
    assert shown["Teacher, pretext only"] == ["2.5\u202fMB", "120\u202fM"]


def test_teacher_student_and_files_stand_side_by_side() -> None:
    from tasks.report.document import render

    teacher = Bought("teacher (resnet18)", 0.9, (0.88, 0.92), 45e6, 1.8e9, 31.5, 60.0)
    student = Bought("student (smallconv)", 0.88, (0.86, 0.9), 1e6, 2.5e7, final=True)
    int8 = Bought("student, int8", missing=True)
    bits = Bought("student, 1 bit, NumPy", refused="it is right about 50.0%")
    page = render(bare(bought=(teacher, student, int8, bits), cores=2))
    shown = {row[0]: row[1:] for row in Page(page).rows}
    assert [cell.replace("\u202f", " ") for cell in shown["teacher (resnet18)"]] == [
        "90.0 %88.0 % to 92.0 %",
        "45 MB",
        "1.8 G",
        "31.5",
        "60",
    ]
    assert shown["student (smallconv)"][-2:] == ["–", "–"]
    assert shown["student, 1 bit, NumPy"] == ["refused: it is right about 50.0%"]
    stamped = stamp(page, "brisk-otter", "today")
    (row,) = (row for row in Page(stamped).rows if row[0] == "student, int8")
    assert row[1] == (
        "not exported yet: knowledge-transfer export brisk-otter --to DIR, then "
        "knowledge-transfer report brisk-otter"
    )
    assert "<!-- " not in stamped
    assert 'id="bought"' not in render(bare())


def test_numbers_of_stages_clusters_and_data_are_those_given(data: ReportData, page: str) -> None:
    parsed = Page(page)
    head = next(i for i, row in enumerate(parsed.rows) if row[0] == "Stage")
    stages = parsed.rows[head + 1 : head + 1 + len(data.stages)]
    for row, stage in zip(stages, data.stages, strict=True):
        assert row[0] == stage.label
        assert row[1] == stage.kind
        assert row[2] == duration(stage.seconds).replace(" ", "\u202f")
        assert row[3] == f"1\u202f797\u202f{UNITS.get(stage.kind, 'rows')}".replace(
            "1\u202f797\u202fparameters", "1.8\u202fk\u202fparameters"
        )
        assert row[4] == (", ".join(stage.inputs) or "–")
        assert stage.fingerprint.startswith(row[5])
    words = parsed.words
    assert data.clusters is not None
    assert data.quality is not None
    for text in (
        "Clusters 40 0 empty",
        "Trained on 1\u202f437 of 1\u202f437 images",
        f"Imbalance {data.clusters.imbalance:.4g}",
        "NMI 0.742",
        "ARI 0.554",
        f"Purity {100 * data.quality.purity:.1f}\u202f%",
        "Labels drawn 115 10.0\u202f% of train with validation",
        "Labels per class 14 to 15",
        "Rejected 3 images",
        "truncated: 17 of 420 bytes",
        "The first 2 of 3 rejected images",
        "torch 2.15.0",
    ):
        assert re.sub(r"\s+", " ", text) in words, text
    assert data.config in "".join(parsed.text)


def test_drawing_has_one_node_per_stage(data: ReportData, page: str) -> None:
    nodes = [a for a in Page(page).all("g") if "node" in (a.get("class") or "").split()]
    assert len(nodes) == len(data.stages)


def test_page_says_how_many_steps_a_training_took(data: ReportData, page: str) -> None:
    from tasks.report.document import render

    words = Page(page).words
    for steps in ("9 000", "900", "300", "700"):
        assert f" in {steps} steps" in words
    one = bare(logs={"pretext": [LogRow(1, 1.0, "loss", 2.0)]})
    assert " in 1 step." in Page(render(one)).words


def test_many_trainings_are_folded(data: ReportData) -> None:
    from tasks.report.document import render

    one = [LogRow(1, 1.0, "loss", 2.0)]
    page = Page(render(bare(logs={f"finetune-{i}": one for i in range(document.TRAININGS_SHOWN + 3)})))
    assert "3 more trainings" in page.words
    assert all(f"finetune-{i}" in page.words for i in range(document.TRAININGS_SHOWN + 3))


# The name and the start of a run


def test_page_in_the_store_names_no_run_and_the_stamp_does(data: ReportData, page: str) -> None:
    stamped = stamp(page, "brisk-otter-20260301", "2026-03-01T09:14:02+00:00")
    before, after = Page(page), Page(stamped)
    assert "started" not in before.words
    assert after.words.count("brisk-otter-20260301") == 2
    assert "<title>brisk-otter-20260301 · knowledge transfer</title>" in stamped
    assert "seed 7 · started 2026-03-01T09:14:02+00:00" in after.words
    assert "<!-- " not in stamped
    assert [tag for tag, _ in before.tags] == [tag for tag, _ in after.tags]


def test_hostile_runs_stay_text(page: str) -> None:
    parsed = Page(stamp(page, HOSTILE, HOSTILE))
    assert "".join(parsed.text).count(HOSTILE) == 3
    assert not any(name.startswith("on") for _, attributes in parsed.tags for name in attributes)


def test_stamped_copy_leaves_nothing_else(page: str, tmp_path: Path) -> None:
    (tmp_path / "store.html").write_text(page, encoding="utf-8")
    write_stamped(tmp_path / "store.html", tmp_path / "report.html", "a", "b")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == stamp(page, "a", "b")
    assert (tmp_path / "store.html").read_text(encoding="utf-8") == page
    assert {path.name for path in tmp_path.iterdir()} == {"store.html", "report.html"}


HOSTILE = "</style></script><img src=x onerror=alert(1)>\"'&{{ 7*7 }}$\\frac$"


def test_hostile_names_stay_text(data: ReportData) -> None:
    from tasks.report.document import render

    stage = StageRow(HOSTILE, "checkpoint", HOSTILE, (), 1.0)
    page = render(
        replace(
            data,
            answers=None,
            ships=replace(data.ships, path=HOSTILE, backbone=HOSTILE, because=HOSTILE),
            recipe=HOSTILE,
            stages=(stage,),
            logs={HOSTILE: [LogRow(1, 0.0, "loss", 1.0), LogRow(1, 0.0, HOSTILE, 2.0)]},
            sheets=(replace(data.sheets[0], majority=HOSTILE, reason=HOSTILE),),
            scores=tuple(Score(HOSTILE, m, "accuracy", "test", HOSTILE, 0.5, 0, 4) for m in ("a", HOSTILE)),
            classes=(HOSTILE,),
            rejected=Rejected(1, ((HOSTILE, HOSTILE),)),
            notes=(HOSTILE,),
            config=HOSTILE,
            environment=((HOSTILE, HOSTILE),),
        )
    )
    parsed = Page(page)
    assert not any(name.startswith("on") for _, attributes in parsed.tags for name in attributes)
    assert len(parsed.all("img")) == 1
    # Recipe, stage, log, value, class, reason, score chart and table, note, configuration ...
    assert "".join(parsed.text).count(HOSTILE) >= 14


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "There are no labels, so the chain ended after transfer"),
        ({}, "There are no labels to compare the clusters with."),
        ({}, "No stage has finished."),
        ({}, "No training of this run has left a log."),
        ({}, "The resolved configuration was not recorded."),
        ({}, "Versions and device were not recorded."),
        ({"counts": Counts(10, 0, 0, labelled=4)}, "There are no test images, so no model was scored."),
        ({"counts": Counts(10, 0, 5, labelled=4)}, "No model was scored in this run"),
        (
            {"scores": (Score("knn", "student", "accuracy", "test", "", 0.5, 0, 9),)},
            "The final student has no test accuracy",
        ),
        (
            {"scores": (Score("few-label", "student", "accuracy", "test", "", 0.5, 0, 9),)},
            "no from-scratch score",
        ),
        ({"logs": {"pretext": []}}, "No training of this run has left a log."),
        ({"logs": {"pretext": [LogRow(1, 0.0, "loss", float("nan"))]}}, "No finite loss was logged"),
        ({"clusters": Clusters((3, 0, 2), (1.0,), 5, 8)}, "K-means saw a sample, 62.5\u202f% of the images"),
        ({"clusters": Clusters((3, 0, 2), (1.0,), 5, 5)}, "1 cluster is empty"),
    ],
)
def test_what_is_missing_says_why(changes: dict[str, object], sentence: str) -> None:
    from tasks.report.document import render

    run = bare(**changes)
    if "clusters" not in changes and "scores" not in changes:
        run = replace(run, clusters=Clusters((5, 5), (2.0, 1.0), 10, 10))
    assert sentence in "".join(Page(render(run)).text)


def test_what_is_left_out_is_drawn_and_listed_with_the_reason(data: ReportData) -> None:
    from tasks.report.document import render

    gone = ("cluster", "assign")
    kept = tuple(
        replace(stage, inputs=tuple(name for name in stage.inputs if name not in gone))
        for stage in data.stages
        if stage.label not in (*gone, "evaluate clusters")
    )
    kept = tuple(
        replace(stage, inputs=tuple(n for n in stage.inputs if n != "evaluate clusters")) for stage in kept
    )
    because = "transfer.method is seed"
    not_needed = (
        NotNeeded("cluster", because, ("embed",)),
        NotNeeded("assign", because, ("cluster", "embed", "absent")),
    )
    run = replace(data, stages=kept, not_needed=not_needed, clusters=None, sheets=(), quality=None)
    page = Page(render(run))
    drawn = [
        attributes["class"]
        for tag, attributes in page.tags
        if tag == "g" and "node" in attributes.get("class", "")
    ]
    assert len(drawn) == len(kept) + 2
    assert drawn.count("node gone") == 2
    for stage in gone:
        assert f"{stage}: left out because {because}" in "".join(page.text)
    assert "".join(page.text).count("The run has no clusters, because transfer.method is seed.") == 2
    assert "2 stages are left out." in page.words


def test_warnings_stand_above_the_scores(data: ReportData) -> None:
    from tasks.report.document import render

    warning = "pretext: all outputs were alike after epoch 1 of 9: <spread> 0.001"
    page = render(replace(data, warnings=(warning,)))
    assert page.index("&lt;spread&gt; 0.001") < page.index('id="scores"')
    assert "Warning:" not in render(data)


def test_codes_are_not_called_clusters(data: ReportData) -> None:
    from tasks.report.document import render

    words = Page(render(replace(data, codes=True, clusters=Clusters((5, 0, 3), (), 8, 8)))).words
    assert "by its first head. The student learned them" in words
    assert "Code 3" in words or "Code 1" in words
    for word in ("centroid", "K-means", "Objective"):
        assert word not in words


def test_run_without_labels_shows_no_word_of_accuracy(data: ReportData) -> None:
    from tasks.report.document import render

    early = ("manifest", "pretext", "embed", "cluster", "assign", "transfer")
    page = render(
        replace(
            data,
            stages=tuple(stage for stage in data.stages if stage.label in early),
            counts=Counts(1437, 0, 0),
            ships=replace(data.ships, classes=0, because=""),
            answers=None,
            scores=(),
            quality=None,
            classes=(),
            sheets=tuple(replace(each, majority=None, purity=None) for each in data.sheets),
            logs={
                label: [row for row in data.logs[label] if row.name != "accuracy"] for label in early[1::4]
            },
        )
    )
    words = Page(page).words
    assert "What this run leaves" in words
    assert len(Page(page).all("img")) == 12
    for word in ("accuracy", "purity", "Purity", "mostly", "NMI", "Labels drawn", "None", "nan"):
        assert word not in words


def test_size_stays_bounded_whatever_the_images(data: ReportData) -> None:
    from tasks.report.document import render

    rng = np.random.default_rng(0)
    noise = tuple(rng.integers(0, 256, (96, 96, 3), dtype=np.uint8) for _ in range(10))
    many = tuple(replace(data.sheets[0], cluster=i, images=noise) for i in range(12))
    steps = np.arange(30_000)
    log = [
        LogRow(int(s), s / 100, "loss", float(v)) for s, v in zip(steps, rng.random(steps.size), strict=True)
    ]
    page = render(
        replace(
            data,
            sheets=many,
            logs={"pretext": log},
            clusters=Clusters(rng.integers(1, 9999, 10_000), (), 1, 1),
        )
    )
    assert len(page.encode()) < 2_000_000
    assert all(len(uri) <= 60_000 * 4 / 3 + 4 for uri in re.findall(r"base64,([^\"]+)", page))


def test_importing_the_report_needs_neither_torch_nor_pyplot() -> None:
    for module, heavy in (
        ("document", "'torch', 'matplotlib.pyplot', 'faiss'"),
        ("content", "'numpy', 'jinja2', 'matplotlib'"),
        ("stamp", "'numpy', 'jinja2', 'matplotlib'"),
    ):
        code = f"import sys, tasks.report.{module}; print([m for m in ({heavy}) if m in sys.modules])"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]", module


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"),
        (0.04, "40 ms"),
        (0.9996, "1.0 s"),
        (12.34, "12.3 s"),
        (59.96, "1 min 00 s"),
        (200, "3 min 20 s"),
        (7500, "2 h 05 min"),
        (4_000_000, "1,111 h 06 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_percent() -> None:
    assert percent(0.9124) == "91.2 %"
    assert percent(0.5, 0) == "50 %"


@pytest.mark.parametrize(
    ("difference", "text"), [(0.0644, "+6.4"), (-0.012, "−1.2"), (-0.0001, "0.0"), (0.0, "0.0")]
)
def test_points(difference: float, text: str) -> None:
    assert numbers.points(difference) == text


# Scores


@pytest.mark.parametrize(("right", "n"), [(0, 5), (5, 5), (1, 3), (351, 360), (9_000, 10_000)])
def test_wilson_equals_scipy(right: int, n: int) -> None:
    from scipy.stats import binomtest

    expected = binomtest(right, n).proportion_ci(0.95, "wilson")
    assert wilson(right / n, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def newcombe(p: float, n: int, q: float, m: int) -> tuple[float, float]:
    return difference_interval(p, wilson(p, n), q, wilson(q, m))


def test_newcombe_equals_the_paper() -> None:
    """Newcombe 1998, table II, example (a), method 10: 56/70 - 48/80."""
    assert newcombe(56 / 70, 70, 48 / 80, 80) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_newcombe_changes_sign_with_the_order() -> None:
    low, high = newcombe(0.9, 100, 0.7, 50)
    assert newcombe(0.7, 50, 0.9, 100) == pytest.approx((-high, -low))


@pytest.mark.parametrize(
    ("final", "scratch", "word"), [(0.95, 0.6, "better"), (0.6, 0.95, "worse"), (0.91, 0.9, "level")]
)
def test_verdict(final: float, scratch: float, word: str) -> None:
    scores = [
        Score("few-label", "student", "accuracy", "test", "", final, 0, 200),
        Score("few-label", "scratch", "accuracy", "test", "", scratch, 0, 200),
    ]
    found = scoreboard.gain(scoreboard.board(scores, content.MODELS), "few-label", "student", "scratch")
    assert found is not None
    assert found.difference == pytest.approx(final - scratch)
    assert document.verdict(found) == word


@pytest.mark.parametrize(
    ("student", "scratch", "sentence"),
    [
        (0.80, 0.50, "lifts it from 50.0 % to 80.0 %"),
        (0.50, 0.80, "below an untrained start: 50.0 % against 80.0 %"),
        (0.62, 0.60, "With 72 test images the two can't be told apart"),
    ],
)
def test_the_headline_of_a_detector(student: float, scratch: float, sentence: str) -> None:
    from tasks.report.document import render

    scores = []
    for model, value in (("student-transferred", student), ("scratch", scratch)):
        for metric, at in (("voc_map", value), ("voc_map_low", value - 0.04), ("voc_map_high", value + 0.03)):
            scores.append(Score("detection", model, metric, "test", "side=320", at, 0, 72))
        scores.append(Score("knn", model, "accuracy", "test", "k=20", 0.9, 0, 500))
    text = re.sub(
        r"\s+", " ", "".join(Page(render(bare(scores=tuple(scores), counts=Counts(10, 0, 72)))).text)
    )
    assert "Detection, trained further: voc_map" in text
    assert sentence in text
    found = scoreboard.gain(
        scoreboard.board(scores, content.MODELS), "detection", "student-transferred", "scratch"
    )
    assert found is not None
    up, down = np.hypot(0.03, 0.04), -np.hypot(0.04, 0.03)
    assert found.interval == pytest.approx((student - scratch + down, student - scratch + up))


def test_board_orders_models_averages_seeds_and_drops_what_is_not_finite() -> None:
    scores = [
        Score("knn", "other", "accuracy", "test", "k=5", 0.9, 0, 50),
        Score("knn", "scratch", "accuracy", "test", "k=5", 0.6, 0, 50),
        Score("knn", "scratch", "accuracy", "test", "k=5", 0.8, 1, 50),
        Score("few-label", "scratch", "ece", "test", "", float("nan"), 0, 50),
        Score("few-label", "scratch", "accuracy", "test", "", 0.5, 0, 50),
    ]
    found = scoreboard.board(scores, content.MODELS, tuple(content.EVALUATIONS))
    assert found.models == (("scratch", "Same student from scratch"), ("other", "other"))
    assert [(row.measurement.evaluation, row.measurement.metric) for row in found.rows] == [
        ("few-label", "accuracy"),
        ("knn", "accuracy"),
    ]
    (own, nothing), (knn, other) = (row.cells for row in found.rows)
    assert own is not None
    assert knn is not None
    assert (own.value, own.spread, own.best) == (0.5, None, False)
    assert knn.value == pytest.approx(0.7)
    assert knn.spread == pytest.approx(np.std([0.6, 0.8], ddof=1))
    assert (knn.low, knn.high) == pytest.approx(wilson(0.7, 50))
    assert nothing is None
    assert other is not None
    assert other.best


def test_scores_of_other_splits_are_no_headline() -> None:
    scores = [Score("few-label", "student", "accuracy", "train", "", 1.0, 0, 9)]
    assert (
        scoreboard.gain(scoreboard.board(scores, content.MODELS), "few-label", "student", "scratch") is None
    )


# The drawing of stages


def walked(path: str) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """End points (x, y) of the straight pieces of a path: first of vertical, then of horizontal ones."""
    down, across = [], []
    x = y = 0.0
    for letter, text in re.findall(r"([MVQH])([^MVQH]*)", path):
        values = [float(value) for value in text.split()]
        if letter == "V":
            down += [(x, y), (x, values[0])]
            y = values[0]
        elif letter == "H":
            across += [(x, y), (values[0], y)]
            x = values[0]
        else:
            x, y = values[-2:]
    return down, across


def test_drawn_edges_are_the_transitive_reduction() -> None:
    def reaches(source: str, target: str, without: tuple[str, str]) -> bool:
        return any(
            (parent, target) != without and (parent == source or reaches(source, parent, without))
            for parent in EDGES[target]
        )

    expected = {(s, t) for t, parents in EDGES.items() for s in parents if not reaches(s, t, (s, t))}
    assert {(edge.source, edge.target) for edge in graph.layout(EDGES).edges} == expected


def test_every_stage_has_a_row_below_what_it_reads_and_stands_inside() -> None:
    drawing = graph.layout(EDGES)
    at = {place.label: place for place in drawing.places}
    assert at.keys() == EDGES.keys()
    assert [place.y for place in drawing.places] == [graph.MARGIN + graph.ROW * i for i in range(len(EDGES))]
    for label, parents in EDGES.items():
        assert all(at[parent].y < at[label].y for parent in parents)
    assert all(0 < place.x < drawing.width and 0 < place.y < drawing.height for place in drawing.places)


def test_lines_join_their_dots_and_touch_no_other() -> None:
    drawing = graph.layout(EDGES)
    at = {place.label: (place.x, place.y) for place in drawing.places}
    for edge in drawing.edges:
        down, across = walked(edge.path)
        assert down[0] == pytest.approx(at[edge.source], abs=0.06)
        assert (across or down)[-1] == pytest.approx(at[edge.target], abs=0.06)
        for label, (x, y) in at.items():
            if label not in (edge.source, edge.target):
                assert not (abs(down[0][0] - x) < 1 and down[0][1] < y < down[1][1] + 1), (edge, label)
                assert not across or abs(across[0][1] - y) > 1


def test_no_two_stages_share_a_lane_while_both_are_read() -> None:
    drawing = graph.layout(EDGES)
    row = {place.label: i for i, place in enumerate(drawing.places)}
    lane = {place.label: place.x for place in drawing.places}
    last = dict(row)
    for edge in drawing.edges:
        last[edge.source] = max(last[edge.source], row[edge.target])
    for a in row:
        for b in row:
            assert a == b or lane[a] != lane[b] or last[a] <= row[b] or last[b] <= row[a]


def test_chain_is_one_straight_line() -> None:
    drawing = graph.layout({"a": (), "b": ("a",), "c": ("b", "a"), "d": ("c",)})
    assert {place.x for place in drawing.places} == {graph.MARGIN}
    assert [(edge.source, edge.target) for edge in drawing.edges] == [("a", "b"), ("b", "c"), ("c", "d")]


def test_many_lanes_are_narrower_so_that_the_drawing_fits_the_page() -> None:
    from tasks.report.document import render

    many = {"a": ()} | {f"evaluate-student-transferred-{i}": ("a",) for i in range(60)}
    drawing = graph.layout(many | {"scores": tuple(many)})
    assert drawing.width <= graph.MARGIN + graph.LANES
    assert len({place.x for place in drawing.places}) >= 60
    rows = tuple(StageRow(label, "scores", "f", ("a",) if label != "a" else (), 1.0) for label in many)
    (svg,) = (a for a in Page(render(bare(stages=rows))).all("svg") if a.get("aria-label"))
    assert float(str(svg["width"])) <= 998  # what the card holds on a page 1280 px wide


def test_order_is_topological_and_else_as_given() -> None:
    given = {"labels": ("manifest",), "manifest": (), "scores": ("b", "a"), "b": ("manifest",), "a": ()}
    assert graph.ordered(given) == ["manifest", "labels", "b", "a", "scores"]


def test_no_stages_and_impossible_stages() -> None:
    assert graph.layout({}).places == ()
    with pytest.raises(ArtifactError, match="'b' reads 'a', which is not among the run's stages"):
        graph.layout({"b": ("a",)})
    with pytest.raises(ArtifactError, match=r"in a circle: (a -> b -> a|b -> a -> b)"):
        graph.layout({"a": ("b",), "b": ("a",)})


# Contact sheets


def test_choice_covers_the_extremes_and_skips_empty_clusters() -> None:
    sizes = np.array([100, 0, 12, 50, 30, 3, 20, 1, 60, 40])
    purity = np.array([0.5, 0.0, 0.9, 0.8, 0.3, 1.0, 0.7, 1.0, 0.6, 0.4])
    chosen = sheets.choose(sizes, purity, 4)
    assert chosen == [(0, "largest"), (2, "purest"), (4, "most mixed"), (7, "smallest")]
    everything = sheets.choose(sizes, purity, 20)
    assert sorted(cluster for cluster, _ in everything) == [0, 2, 3, 4, 5, 6, 7, 8, 9]


def test_choice_without_labels() -> None:
    chosen = sheets.choose(np.array([5, 9, 1, 7, 0, 3]), None, 3)
    assert chosen == [(1, "largest"), (0, "of middle size"), (2, "smallest")]
    assert sheets.choose(np.zeros(4, np.int64), None) == []


def test_nearest_equals_sorting_by_hand() -> None:
    rng = np.random.default_rng(3)
    cluster = rng.integers(0, 6, 200).astype(np.int32)
    distance = rng.integers(0, 30, 200).astype(np.float32)
    found = sheets.nearest(cluster, distance, [4, 0, 99], 7)
    for each in (4, 0):
        by_hand = sorted((distance[i], i) for i in range(200) if cluster[i] == each)[:7]
        assert found[each].tolist() == [i for _, i in by_hand]
    assert found[99].size == 0


def test_small_images_are_enlarged_without_loss_and_gaps_are_transparent() -> None:
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 256, (8, 8, 3), dtype=np.uint8) for _ in range(7)]
    decoded = np.asarray(Image.open(BytesIO(sheets.png(images))).convert("RGBA"))
    cell, step = 72, 72 + sheets.GAP
    assert decoded.shape == (2 * step - sheets.GAP, 5 * step - sheets.GAP, 4)
    for i, image in enumerate(images):
        y, x = i // 5 * step, i % 5 * step
        assert np.array_equal(
            decoded[y : y + cell, x : x + cell, :3], np.kron(image, np.ones((9, 9, 1), np.uint8))
        )
    assert (decoded[:, cell:step, 3] == 0).all()
    assert (decoded[step:, 2 * step :, 3] == 0).all()
    assert (decoded[..., 3] == 255).sum() == 7 * cell * cell


def test_large_images_fit_the_limit_and_keep_their_shape_and_gaps() -> None:
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 256, (120, 240, 3), dtype=np.uint8) for _ in range(10)]
    for limit in (60_000, 9_000):
        picture = sheets.png(images, limit=limit)
        assert len(picture) <= limit
        alpha = np.asarray(Image.open(BytesIO(picture)).convert("RGBA"))[..., 3]
        cell = (alpha.shape[1] + sheets.GAP) // 5 - sheets.GAP
        drawn = alpha[:cell, :cell] == 255
        assert drawn.any(1).sum() == cell // 2
        assert drawn.any(0).sum() == cell
        assert (alpha[:, cell : cell + sheets.GAP] == 0).all()


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)]
)
def test_what_is_no_image_is_refused_by_shape(image: np.ndarray) -> None:
    with pytest.raises(ArtifactError, match=re.escape(f"image 0 is {image.dtype} of shape {image.shape}")):
        sheets.sheet([image])


# Figures


def luminance(colour: str) -> float:
    """WCAG 2.1 relative luminance."""
    parts = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("palette", [figures.LIGHT, figures.DARK], ids=["light", "dark"])
@pytest.mark.parametrize("name", ["ink", "muted", "first", "second", "third", "neutral"])
@pytest.mark.parametrize("ground", ["paper", "card"])
def test_colours_are_legible(palette: dict[str, str], name: str, ground: str) -> None:
    dark, light = sorted((luminance(palette[name]), luminance(palette[ground])))
    assert (light + 0.05) / (dark + 0.05) >= 4.5


def test_svg_takes_colours_from_the_page_and_keeps_text_as_text() -> None:
    assert figures.DARK.keys() == figures.LIGHT.keys()
    assert len(set(figures.LIGHT.values())) == len(figures.LIGHT)
    svg = figures.scores_svg(
        [figures.Bar("A < B & $x$ 猫", 0.5, 0.4, 0.6), figures.Bar("b", 1.0, 0.9, 1.0, "neutral")], "p"
    )
    root = ElementTree.fromstring(re.sub(r"\bhref=", "xlink_href=", svg))
    assert "A < B & $x$ 猫" in [element.text for element in root.iter()]
    assert not set(re.findall(r"#[0-9a-f]{6}\b", svg)) & set(figures.LIGHT.values())
    assert "var(--first)" in svg
    assert "var(--neutral)" in svg
    assert all(each.startswith("p-") for each in re.findall(r'\bid="([^"]+)"', svg))


def test_a_long_curve_keeps_its_extremes_and_its_area() -> None:
    rows = [LogRow(s, 0.0, "loss", 1.0 + (s == 5000)) for s in range(10_000)]
    figure = figures._loss_curve(rows)
    (axes,) = figure.axes
    x, y = axes.lines[0].get_data()
    assert len(x) == figures.POINTS
    assert np.mean(y) == pytest.approx(1.0001, abs=1e-5)
    assert axes.collections[0].get_paths()[0].vertices[:, 1].max() == 2.0


def test_cluster_bars_are_the_sizes_in_falling_order() -> None:
    axes = figures._cluster_sizes(np.array([3, 9, 0, 5])).axes[0]
    assert axes.patches[0].get_data().values.tolist() == [9, 5, 3, 0]
    assert axes.lines[0].get_ydata()[0] == 17 / 4
    low, high = figures._cluster_sizes(np.array([900, 1, 40])).axes[0].get_ylim()
    assert low < 1
    assert high > 900


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("learning_rate", True),
        ("lr", True),
        ("main/learning_rate", True),
        ("loss", False),
        ("lrp", False),
        ("colour", False),
    ],
)
def test_learning_rates_are_known_by_name(name: str, expected: bool) -> None:
    assert figures.learning_rate(name) is expected


def test_pictures_for_prefect_are_small_png_files(data: ReportData) -> None:
    rng = np.random.default_rng(5)
    photos = [[rng.integers(0, 256, (96, 96, 3), dtype=np.uint8) for _ in range(10)] for _ in range(3)]
    assert data.clusters is not None
    pictures = [
        figures.loss_curve_png(data.logs["pretext"]),
        figures.cluster_sizes_png(data.clusters.sizes),
        figures.contrasts_png([figures.Contrast("a > b", 2.0, -1.0, 5.0, 0.0, None)]),
        figures.contact_sheet_png(photos, [f"cluster {i}: $mixed" for i in range(3)]),
        figures.contact_sheet_png(
            [sheet.images for sheet in data.sheets], [str(s.majority) for s in data.sheets]
        ),
    ]
    for picture in pictures:
        assert len(picture) <= 200_000
        image = Image.open(BytesIO(picture))
        assert image.format == "PNG"
        assert min(image.size) > 100


def test_contrasts_are_drawn_where_they_lie_and_what_is_far_off_at_the_edge() -> None:
    near = figures.Contrast("a = b within 1.5 points", -1.0, -4.0, 2.0, -1.5, 1.5)
    far = figures.Contrast("c > d", 40.0, 35.0, 45.0, 0.0, None, "second")
    (axes,) = figures._contrasts([near, far]).axes
    intervals, dots = axes.lines[:-1:2], axes.lines[1:-1:2]  # the last is the line at 0
    assert [list(line.get_xdata()) for line in intervals] == [[-4.0, 2.0], [35.0, 45.0]]
    assert [line.get_marker() for line in dots] == ["o", ">"]
    assert dots[0].get_xdata() == [-1.0]
    assert 0.9 * 15 < dots[1].get_xdata()[0] < axes.get_xlim()[1] == 15
    wanted = [
        (band.get_paths()[0].vertices[:, 0].min(), band.get_paths()[0].vertices[:, 0].max())
        for band in axes.collections
    ]
    assert wanted == [(-1.5, 1.5), (0.0, 15.0)]
    assert [text.get_text() for text in axes.texts] == ["-1.0", "+40.0"]


def test_contact_sheet_for_prefect_shows_the_pixels() -> None:
    red, blue = (np.full((64, 64, 3), colour, np.uint8) for colour in ((255, 0, 0), (0, 0, 255)))
    pixels = np.asarray(
        Image.open(BytesIO(figures.contact_sheet_png([[red, red], [blue]], ["a", "b"]))).convert("RGB")
    )
    assert (pixels == (255, 0, 0)).all(-1).sum() == 2 * 64 * 64
    assert (pixels == (0, 0, 255)).all(-1).sum() == 64 * 64
