"""The report in a real Chromium: nothing leaves the page at the widths of a laptop and a phone, and the map
can be used by mouse, touch and keyboard."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from report_sample import answers, image_map, sample

from tasks.report.content import Bought, ModelCost, StageRow
from tasks.report.document import render
from tasks.report.scoreboard import Score

pytestmark = pytest.mark.slow


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
    wide = replace(
        usual,
        stages=tuple(stages),
        scores=scores,
        classes=names,
        answers=answers(names, 12),
        map=image_map(),
    )
    bought = (
        Bought("teacher (resnet18)", 0.9, (0.88, 0.92), 45e6, 1.8e9, 31.5, 60.0),
        Bought("student (smallconv)", 0.88, (0.86, 0.9), 1e6, 2.5e7, 12_300.0, 21_000.0, final=True),
        Bought("student, ONNX", 0.88, (0.86, 0.9), 1e6, 2.5e7, 12_300.0, 21_000.0),
        Bought("student, int8", refused="it is right about 50.0% of 360 test images, the network about 88%"),
    )
    costs = (ModelCost("Final student (distilled)", 8 * 910, 400_000, 64_000_000, final=True),)
    usual = replace(usual, map=image_map(k=10), bought=bought, cores=2, costs=costs)
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


def test_models_side_by_side_can_be_read_on_a_phone_without_scrolling_sideways(
    browser: Any, pages: dict[str, Path]
) -> None:
    page = browser.new_page(viewport={"width": 400, "height": 900})
    page.goto(pages["usual"].as_uri())
    cells = page.evaluate(
        """[...document.querySelectorAll('.beside td')].map(each => {
            const box = each.getBoundingClientRect();
            const label = getComputedStyle(each, '::before');
            return [box.left, box.right, each.scrollWidth - each.clientWidth, label.display, label.content];
        })"""
    )
    assert len(cells) == 3 * 5 + 1 + 4
    assert all(left >= 0 and right <= 400 and over <= 0 for left, right, over, *_ in cells)
    assert all(display == "block" for *_, display, _ in cells)
    shown = [content.strip('"') for *_, content in cells]
    assert shown[:5] == ["Right", "Size on disk", "Multiply-adds", "Images/s 1 core", "Images/s 2 cores"]
    assert shown[-4:] == ["Weights", *(f"Multiply-adds, {kind}" for kind in ("real", "binary", "sum"))]
    boxes = "[...document.querySelectorAll('.scroll:has(.beside)')]"
    assert page.evaluate(f"{boxes}.length") == 2
    assert page.evaluate(f"{boxes}.every(each => each.scrollWidth <= each.clientWidth)")
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


# The map


@pytest.fixture
def opened(browser: Any, pages: dict[str, Path], request: pytest.FixtureRequest) -> Iterator[Any]:
    """The page of a run with 40 clusters, whose script has started. No message and no request is allowed."""
    width, scheme = getattr(request, "param", (1280, "light"))
    context = browser.new_context(
        viewport={"width": width, "height": 1000}, color_scheme=scheme, has_touch=width < 700
    )
    page = context.new_page()
    heard: list[str] = []
    page.on("console", lambda message: heard.append(message.text))
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.on("request", lambda request: heard.append(request.url))
    page.goto(pages["wide"].as_uri())
    page.wait_for_selector("#explore-card.live")
    yield page
    # The page itself is the only request. The pictures inside are data.
    assert [line for line in heard if not line.startswith("data:")] == [pages["wide"].as_uri()]
    context.close()


def panel(page: Any) -> str:
    return str(page.locator("#explore-panel").inner_text())


def told(page: Any) -> str:
    return str(page.locator("#explore-told").inner_text())


def test_the_map_opens_a_cluster_by_keyboard_and_closes_it(opened: Any) -> None:
    opened.locator("#explore-show").focus()
    opened.keyboard.press("Tab")  # past the chip of the labelled images
    while opened.evaluate("document.activeElement.id") != "explore-plane":
        opened.keyboard.press("Tab")
    first = told(opened)
    assert "cluster" in first
    places = {first}
    for key in ("ArrowRight", "ArrowDown", "ArrowLeft", "ArrowLeft", "ArrowUp"):
        opened.keyboard.press(key)
        places.add(told(opened))
    assert len(places) > 2
    assert opened.locator("#explore-tip").is_visible()
    opened.keyboard.press("Enter")
    assert "is open" in told(opened)
    text = panel(opened)
    assert "TYPICAL IMAGES" in text.upper()
    assert "36 images" in text
    shown = opened.locator("#explore-card .dots path.on").count()
    assert 0 < shown < 400
    box = opened.locator("#explore-plane svg").get_attribute("viewBox")
    opened.keyboard.press("Tab")  # the zoom
    focused = opened.evaluate("document.activeElement.getAttribute('aria-label')")
    assert focused == "Zoom in"
    opened.keyboard.press("Enter")
    zoomed = opened.locator("#explore-plane svg").get_attribute("viewBox")
    assert [float(each) for each in zoomed.split()][2:] == [float(each) / 2 for each in box.split()[2:]]
    for _ in range(20):
        opened.keyboard.press("Tab")
        if opened.evaluate("document.activeElement.dataset.point") is not None:
            break
    else:
        raise AssertionError("the pictures of the cluster can't be reached")
    assert opened.locator(".here[visibility=visible]").count() == 1  # the focused picture's place on the map
    opened.keyboard.press("Enter")  # it is shown, and the keyboard stays where it was
    assert opened.locator("#explore-panel .one canvas").count() == 1
    assert opened.evaluate("document.activeElement.id") == "explore-panel"
    opened.locator("#explore-plane").focus()
    opened.keyboard.press("Escape")
    assert "Clusters, the largest first" in panel(opened)
    assert opened.locator("#explore-card .dots path.on").count() == 0


def test_pointing_shows_the_image_and_a_click_opens_its_cluster(opened: Any) -> None:
    dot = opened.locator("#explore-card .dots path").last  # a wrong image, on top of all others
    dot.scroll_into_view_if_needed()
    box = dot.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    opened.mouse.move(x, y)
    tip = opened.locator("#explore-tip")
    assert tip.is_visible()
    assert "taken for" in tip.inner_text()
    seen = opened.evaluate(
        """() => {
            const canvas = document.querySelector('#explore-tip canvas');
            const values = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
            return [Math.min(...values.filter((_, i) => i % 4 < 3)), Math.max(...values)];
        }"""
    )
    assert seen[1] - seen[0] > 100  # a digit, not an empty square
    opened.mouse.click(x, y)
    assert "Wrong test images" in panel(opened)
    opened.mouse.move(0, 0)
    assert not tip.is_visible()


def test_clusters_are_listed_and_open(opened: Any) -> None:
    tiles = opened.locator("#explore-panel .gallery button")
    assert tiles.count() == 40
    tiles.nth(5).focus()
    assert 0 < opened.locator("#explore-card .dots path.on").count() < 100
    opened.keyboard.press("Enter")
    assert "TYPICAL IMAGES" in panel(opened).upper()
    assert opened.locator("#explore-panel .gallery button").count() < 40
    assert opened.locator("#explore-show").input_value().startswith("k")


def test_every_group_can_be_chosen(opened: Any) -> None:
    options = opened.locator("#explore-show option").evaluate_all("all => all.map(each => each.value)")
    assert {"", "wrong", "labelled", "c0", "c9", "k0", "k39"} <= set(options)
    for value in ("wrong", "labelled", "c3", "k12"):
        opened.select_option("#explore-show", value)
        on = opened.locator("#explore-card .dots path.on").count()
        assert on > 0
        assert opened.locator("#explore-panel .gallery canvas").count() > 0
        rings = opened.locator("#explore-card .rings path.on").count()
        assert rings == on if value == "labelled" else rings < on
    opened.select_option("#explore-show", "")
    assert opened.locator("#explore-card .dots path.on").count() == 0


@pytest.mark.parametrize("name", ["usual", "wide"])
def test_colours_are_chosen_without_the_script(browser: Any, pages: dict[str, Path], name: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(pages[name].as_uri())
    assert page.locator("#explore-show").is_hidden()
    context.close()
    page = browser.new_page()
    page.goto(pages[name].as_uri())
    looks = {}
    for mode in ("class", "cluster", "answer"):
        page.check(f'[name="explore-by"][value="{mode}"]', force=True)
        looks[mode] = page.evaluate(
            """() => {
                const stroke = (each) => getComputedStyle(each).stroke;
                const dots = [...document.querySelectorAll('#explore .dots path:not(.hole)')];
                const hole = (dot) => [dot.nextElementSibling].filter((each) => each?.matches('.hole'))[0];
                const open = (dot) => !!hole(dot) && stroke(hole(dot)) !== 'none';
                return [dots.map(stroke), dots.map((dot) => `${stroke(dot)} ${open(dot)}`)]
                    .map((all) => new Set(all).size);
            }"""
        )
    few = name == "usual"  # ten clusters and ten classes; the other page has 40 and 50
    assert looks == {
        "class": [6, 10] if few else [1, 1],
        "cluster": [6, 10] if few else [1, 1],
        "answer": [3, 3],
    }
    page.close()


@pytest.mark.parametrize("opened", [(400, "light"), (400, "dark"), (1280, "dark")], indirect=True)
def test_an_open_cluster_stays_on_the_page(opened: Any) -> None:
    width = opened.viewport_size["width"]
    plane = opened.locator("#explore-plane")
    plane.scroll_into_view_if_needed()
    if width < 700:
        box = opened.locator("#explore-card .dots path").last.bounding_box()
        opened.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        assert "Wrong test images" in panel(opened)
    else:
        plane.focus()
        opened.keyboard.press("ArrowRight")
        opened.keyboard.press("Enter")
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    outside = opened.evaluate(
        """width => [...document.querySelectorAll('#explore *')].filter(each => {
            const box = each.getBoundingClientRect();
            return box.width > 1 && (box.right > width + 1 || box.left < -1) && !each.closest('svg');
        }).map(each => each.outerHTML.slice(0, 80))""",
        width,
    )
    assert outside == []
