"""The report in a real Chromium, at the widths of a laptop and a phone: nothing leaves the page."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from report_sample import answers, sample

from tasks.report.content import StageRow
from tasks.report.document import render
from tasks.report.scoreboard import Score

pytestmark = pytest.mark.slow

sync_api = pytest.importorskip("playwright.sync_api")
SWITCHES = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next((found for name in names if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip("Chromium is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=SWITCHES)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A usual run, and one with long names, many stages, models and classes."""
    usual = sample()
    names = tuple(f"a class with quite a long name, number {i}" for i in range(50))
    stages = list(usual.stages)
    for i in range(40):
        read = (stages[-1].label, stages[2].label, stages[5].label)
        stages.append(
            StageRow(f"finetune-25each-draw{i}-frozen-student", "checkpoint", f"{i:032}", read, 3.0, 7)
        )
    scores = (
        *usual.scores,
        *(
            Score("few-label", f"another-model-{i}", "top1", "test", "labels=25each tuned", 0.5, 0, 360)
            for i in range(6)
        ),
    )
    wide = replace(usual, stages=tuple(stages), scores=scores, classes=names, answers=answers(names, 12))
    folder = tmp_path_factory.mktemp("layout")
    found = {}
    for name, data in (("usual", usual), ("wide", wide)):
        found[name] = folder / f"{name}.html"
        found[name].write_text(render(data), encoding="utf-8")
    return found


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("name", ["usual", "wide"])
def test_the_page_is_as_wide_as_the_screen_and_what_is_wider_scrolls_in_its_box(
    browser: Any, pages: dict[str, Path], name: str, width: int
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto(pages[name].as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    # An element that sticks out of the page must have a box around it that scrolls.
    outside = page.evaluate(
        """width => [...document.querySelectorAll('main *')].filter(each => {
            const box = each.getBoundingClientRect();
            return (box.right > width + 1 || box.left < -1) && !each.closest('.scroll, pre');
        }).map(each => each.outerHTML.slice(0, 80))""",
        width,
    )
    assert outside == []
    page.close()


def test_every_score_can_be_seen_on_a_phone_without_scrolling_sideways(
    browser: Any, pages: dict[str, Path]
) -> None:
    page = browser.new_page(viewport={"width": 400, "height": 900})
    page.goto(pages["wide"].as_uri())
    boxes = page.evaluate(
        """[...document.querySelectorAll('.scores td b')].map(each => {
            const box = each.getBoundingClientRect();
            return [box.left, box.right, box.width];
        })"""
    )
    assert len(boxes) > 20
    assert all(left >= 0 and right <= 400 and width > 0 for left, right, width in boxes)
    models = page.evaluate(
        """[...document.querySelectorAll('.scores td:not(.none)')].map(
            each => getComputedStyle(each, '::before').content)"""
    )
    assert '"Final student (distilled)"' in models
    assert "none" not in models
    page.close()


def test_the_usual_run_needs_no_box_that_scrolls_on_a_laptop(browser: Any, pages: dict[str, Path]) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(pages["usual"].as_uri())
    wider = page.evaluate(
        """[...document.querySelectorAll('.scroll')].filter(each => each.scrollWidth > each.clientWidth)
            .map(each => each.outerHTML.slice(0, 80))"""
    )
    assert wider == []
    page.close()
