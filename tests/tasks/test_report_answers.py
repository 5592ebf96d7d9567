"""The report's sections about the model that ships: what it gets right, what not, and how sure it is."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from report_sample import Page, answers, bare, sample

from data.intervals import wilson
from tasks.phrases import percent
from tasks.report import confusion
from tasks.report.content import Counts, ReportData
from tasks.report.document import render


@pytest.fixture(scope="module")
def data() -> ReportData:
    return sample()


@pytest.fixture(scope="module")
def page(data: ReportData) -> str:
    return render(data)


def narrow(share: float, digits: int = 1) -> str:
    return percent(share, digits).replace(" ", "\u202f")


def section(page: str, name: str) -> str:
    """The words of one section."""
    found = re.search(rf'<section id="{name}".*?</section>', page, re.DOTALL)
    assert found is not None
    return re.sub(r"\s+", " ", Page(found[0]).words).strip()


def test_the_top_names_the_model_its_place_its_size_and_its_accuracy(data: ReportData, page: str) -> None:
    words = section(page, "model")
    assert data.answers is not None
    low, high = (percent(end) for end in wilson(data.answers.accuracy, 360))
    for text in (
        f"Right on 360 test images {percent(data.answers.accuracy)} 95 % interval {low} to {high}",
        "Which Final student (distilled) Why It was right about 96 % of 50 labels.",
        "smallconv, 117 k parameters, for images of 16 px, 10 classes",
        "artifacts/checkpoint/11c0ffee115eed0011/model.safetensors in the store, 474 kB",
        'kt.open("STORE/artifacts/checkpoint/11c0ffee115eed0011")',
        "knowledge-transfer evaluate STORE/artifacts/checkpoint/11c0ffee115eed0011 --data SOURCE",
        "calibration error 4.6 % (95 % interval 1.2 % to 7.9 %, n = 360); temperature 0.25",
    ):
        assert text in words, text
    assert page.index('id="model"') < page.index('id="headline"')


@pytest.mark.parametrize(("smallest", "shown"), [(36, False), (25, False), (24, True)])
def test_balanced_accuracy_is_shown_where_the_classes_are_uneven(
    data: ReportData, smallest: int, shown: bool
) -> None:
    assert data.answers is not None
    rows = (replace(data.answers.classes[0], n=smallest, right=9), *data.answers.classes[1:])
    words = section(
        render(replace(data, answers=replace(data.answers, classes=rows, balanced=0.765))), "model"
    )
    assert ("76.5 % balanced" in words) == shown
    assert ("1.5 times as many test images" in words) == shown


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"ships": None}, "This run trained no network"),
        ({"counts": Counts(10, 0, 0)}, "There are no test images"),
        ({}, "the test images have no labels"),
    ],
)
def test_without_answers_the_page_still_says_which_model_and_where(
    data: ReportData, changes: dict[str, object], told: str
) -> None:
    page = render(replace(data, answers=None, **changes))  # type: ignore[arg-type]
    words = section(page, "model")
    assert told in words
    assert ("artifacts/checkpoint/11c0ffee115eed0011/model.safetensors" in words) == ("ships" not in changes)
    for gone in ("classes", "mistakes", "confidence"):
        assert f'id="{gone}"' not in page
        assert f'href="#{gone}"' not in page


def test_the_table_by_class_shows_what_was_counted_worst_first(data: ReportData, page: str) -> None:
    rows = Page(page).rows
    head = next(i for i, row in enumerate(rows) if row[0] == "Class")
    assert data.answers is not None
    for row, found in zip(rows[head + 1 :], data.answers.classes, strict=False):
        wrong = found.n - found.right
        precision = "–" if found.precision is None else narrow(found.precision)
        name, times = found.mostly or ("", 0)
        assert row == [
            found.name,
            narrow(found.right / found.n),
            precision,
            "36",
            "15",
            f"{name} {times} of {wrong} mistakes",
        ]
    shown = [row[1] for row in rows[head + 1 : head + 11]]
    assert shown == sorted(shown, key=lambda text: float(text.split("\u202f")[0]))


def test_many_classes_are_folded_and_their_matrix_is_a_list_of_pairs(data: ReportData) -> None:
    names = tuple(f"class number {i}" for i in range(60))
    many = answers(names, images=6)
    page = render(replace(data, answers=many, classes=names))
    assert "35 more classes" in Page(page).words
    assert '<svg class="matrix"' not in page
    first, second, times = many.pairs[0]
    assert [f"{first} and {second}", str(times), narrow(times / (many.n - many.right))] in Page(page).rows
    assert sum(" and class number" in row[0] for row in Page(page).rows) == 20


def test_the_drawn_matrix_has_every_number_and_fits_a_page_up_to_50_classes() -> None:
    for classes, letters in ((2, 1), (10, 5), (25, 40), (36, 40), (50, 40)):
        names = tuple(f"{i}" + "x" * letters for i in range(classes))
        found = answers(names, images=12)
        drawn = confusion.draw(found.matrix, names)
        assert drawn is not None
        assert drawn.width <= 998
        assert sum(cell.n for cell in drawn.cells) == found.n
        for cell in drawn.cells:
            row, col = int(cell.y // drawn.side), int(cell.x // drawn.side)
            assert cell.n == found.matrix[row, col]
            assert cell.right == (row == col)
            assert cell.share == pytest.approx(cell.n / 12)
            assert cell.text == str(cell.n)
            assert names[row] in cell.title
    huge = np.diag([123456, 1])
    assert [cell.text for cell in confusion.draw(huge, ("a", "b")).cells] == ["123456", "1"]  # type: ignore[union-attr]
    tight = np.diag([123456] * 30)
    assert {cell.text for cell in confusion.draw(tight, ("a",) * 30).cells} == {""}  # type: ignore[union-attr]
    assert confusion.draw(np.eye(51, dtype=np.int64), ("a",) * 51) is None


def test_wrong_images_are_shown_with_both_names_and_the_confidence(data: ReportData, page: str) -> None:
    assert data.answers is not None
    wrong = data.answers.n - data.answers.right
    words = section(page, "mistakes")
    assert f"The 5 most confident of {wrong} mistakes" in words
    for each in data.answers.mistakes:
        assert f"{each.true} taken for {each.predicted} {percent(each.confidence, 0)} sure" in words
    alts = [image.get("alt") for image in Page(page).all("img")]
    assert [each.uri for each in data.answers.mistakes] == [
        alt for alt in alts if alt and alt.endswith(".png")
    ]
    perfect = replace(data.answers, right=360, mistakes=(), pairs=())
    assert "right about all 360 test images" in section(render(replace(data, answers=perfect)), "mistakes")


def test_confidence_is_shown_with_its_bins_interval_and_thresholds(data: ReportData, page: str) -> None:
    assert data.answers is not None
    words = section(page, "confidence")
    assert "Calibration error 4.6 % 95 % interval 1.2 % to 7.9 %, n = 360" in words
    rows = Page(page).rows
    for each in data.answers.bins:
        values = (each.confidence, each.accuracy)
        ends = f"{narrow(each.low)} to {narrow(each.high)}"
        assert [ends, *(narrow(value) for value in values), str(each.n)] in rows
    for part in data.answers.answered:
        values = (part.threshold, part.accuracy)
        assert [narrow(part.share, 0), *(narrow(value) for value in values), str(part.n)] in rows
    counts = re.findall(r'<g id="reliability-.*', page)
    assert counts
    for n in data.answers.histogram:
        assert n == 0 or f">{n}<" in page


def test_hostile_names_of_classes_and_images_stay_text(data: ReportData) -> None:
    evil = "<script>alert('x')</script>"
    found = answers((evil, "b & c", '"d"'), images=20)
    mistakes = tuple(replace(each, uri=f'{evil}" onerror="x') for each in found.mistakes)
    page = render(replace(data, answers=replace(found, mistakes=mistakes), classes=found.names))
    parsed = Page(page)
    assert not parsed.all("script")
    assert not any(name.startswith("on") for _, attributes in parsed.tags for name in attributes)


def test_a_checkpoint_holds_parameters_and_purity_comes_with_its_number(data: ReportData, page: str) -> None:
    stages = next(i for i, row in enumerate(Page(page).rows) if row[0] == "Stage")
    rows = {row[0]: row[3] for row in Page(page).rows[stages + 1 :] if len(row) == 6}
    assert rows["distill"] == "1.8\u202fk\u202fparameters"
    assert rows["manifest"] == "1\u202f797\u202fimages"
    assert rows["predict"] == "1\u202f797\u202frows"
    one = replace(data.sheets[0], size=57, purity=1.0, labelled=1)
    words = section(render(replace(data, sheets=(one,))), "sheets")
    assert "purity 100 % of 1 labelled" in words


def test_a_run_of_which_little_is_known_is_rendered() -> None:
    assert "This run trained no network" in render(bare())
