"""Which images are on the map, and the section of the report that shows them."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from report_sample import Page, image_map, sample

from tasks.report import explore, figures, sprite
from tasks.report.content import Group, ImageMap
from tasks.report.document import render
from tasks.stages.explore import choose

EVIL = "</script><script>alert(1)</script><!--<img src=x onerror=alert(1)>\"'&{{ 7*7 }}"

# Which images


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


INDEX = np.arange(0, 2000, 2)
NONE = ints()


def test_a_few_images_are_all_on_the_map() -> None:
    chosen, random = choose(INDEX, (NONE, NONE), NONE, 1000, seed=0)
    assert np.array_equal(chosen, INDEX)
    assert random.all()


def test_labelled_and_wrong_images_come_on_top_of_the_random_ones() -> None:
    wrong, labelled, typical = INDEX[:40], INDEX[30:90], INDEX[500:510]
    chosen, random = choose(INDEX, (wrong, labelled), typical, 100, seed=3)
    assert (np.diff(chosen) > 0).all()
    assert random.sum() == 100
    assert np.isin(np.concatenate([wrong, labelled, typical]), chosen).all()
    assert np.isin(chosen[~random], np.concatenate([wrong, labelled, typical])).all()


def test_the_random_images_depend_on_seed_and_index_alone() -> None:
    def drawn(index: np.ndarray, wrong: np.ndarray, seed: int) -> set[int]:
        chosen, random = choose(index, (wrong, NONE), NONE, 100, seed)
        return set(chosen[random].tolist())

    before = drawn(INDEX, NONE, 0)
    assert before == drawn(INDEX, INDEX[::7], 0)
    assert before != drawn(INDEX, NONE, 1)
    more = np.arange(2000)  # more images push some of the earlier ones out, and change no order
    assert drawn(more, NONE, 0) & set(INDEX.tolist()) <= before


def test_the_random_images_are_spread_evenly() -> None:
    counts = np.zeros(1000)
    for seed in range(200):
        chosen, random = choose(INDEX, (NONE,), NONE, 100, seed)
        counts[chosen[random] // 2] += 1
    expected = 20.0  # 200 draws of a tenth; the variance of a count is 18
    assert abs(((counts - expected) ** 2).mean() - 18) < 3
    assert abs(counts[:500].sum() - 10_000) < 5 * 50


def test_what_does_not_fit_is_drawn_wrong_images_first() -> None:
    wrong, labelled = INDEX[:150], INDEX[150:]
    chosen, random = choose(INDEX, (wrong, labelled), NONE, 200, seed=1)
    assert len(chosen) == 400
    assert np.isin(wrong, chosen).all()
    chosen, random = choose(INDEX, (INDEX[:900], INDEX[900:]), NONE, 200, seed=1)
    assert (chosen[~random] < 1800).all()  # only wrong ones found room
    assert len(chosen) == 400


# The page


def parts(page: str) -> tuple[dict[str, Any], str]:
    """The data and the script of a page with a map."""
    data = re.search(r'<script type="application/json" id="explore-data">(.*?)</script>', page, re.DOTALL)
    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL)
    assert data
    assert script
    return json.loads(data[1]), script[1]


@pytest.fixture(scope="module")
def page() -> str:
    return render(replace(sample(), map=image_map()))


def test_the_page_s_policy_lets_this_script_run_and_no_other(page: str) -> None:
    _, script = parts(page)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(m for m in Page(page).all("meta") if m.get("http-equiv"))["content"]
    assert policy == (
        f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'"
    )
    assert page.count("<script") == 2
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "fetch(", "http"):
        assert word not in script


def test_without_a_map_there_is_no_script_and_the_section_says_why() -> None:
    plain = render(sample())
    assert "<script" not in plain
    assert "script-src" not in plain
    assert "No map was drawn" in plain


def test_everything_known_of_an_image_reaches_the_page(page: str) -> None:
    found, (data, _) = image_map(), parts(page)
    assert sorted(data["tile"]) == list(range(len(found.x)))
    tile = np.array(data["tile"])
    assert data["label"] == found.label[tile].tolist()
    assert data["cluster"] == found.cluster[tile].tolist()
    assert data["said"] == found.predicted[tile].tolist()
    assert data["uri"] == [found.uri[i] for i in tile]
    assert [("train", "unlabelled", "test")[i] for i in data["split"]] == [found.split[i] for i in tile]
    assert np.array(data["drawn"], bool).tolist() == found.labelled[tile].tolist()
    # The nearest to its centroid comes first.
    assert np.array_equal(np.argsort(data["near"]), np.argsort(found.distance[tile], kind="stable"))
    dots = re.findall(r'<path d="M(\d+) (\d+)h0" class="([^"]+)"/>', page)
    assert [(int(x), int(y)) for x, y, _ in dots] == list(zip(data["x"], data["y"], strict=True))
    for (_, _, marks), i in zip(dots, tile.tolist(), strict=True):
        right = "u" if found.predicted[i] < 0 else "r" if found.predicted[i] == found.label[i] else "w"
        assert {f"c{found.label[i]}", "kx", right} == set(marks.split()) - {"l"}
        assert ("l" in marks.split()) == found.labelled[i]
    # Wrong images are drawn last, so that none hides another.
    kinds = [marks.split()[2] for _, _, marks in dots]
    assert kinds == sorted(kinds, key=lambda kind: kind == "w")
    assert "w" in kinds


def test_the_page_says_what_was_drawn(page: str) -> None:
    words = re.sub(r"\s+", " ", Page(page).words)
    wrong = int((image_map().predicted != image_map().label)[320:].sum())
    assert "The map has 400 of 1 797 images: 300 random ones, and besides these labelled images (" in words
    assert f"wrong test images ({wrong} on the map) and the most typical images of each cluster." in words
    assert "they hold 34 % of the variance" in words
    assert "40 clusters are too many for colours" in words
    tsne = replace(image_map(), projection="tsne", explained=None, total=400)
    shown = re.sub(r"\s+", " ", Page(render(replace(sample(), map=tsne))).words)
    assert "All 400 images are on the map." in shown
    assert "distances between groups" in shown
    assert "variance," not in shown


def test_hostile_names_stay_text() -> None:
    found = image_map()
    evil = replace(found, uri=tuple(f"{EVIL}{i}" for i in range(len(found.uri))))
    for classes in ((EVIL,) * 10, (EVIL,) * 30):
        page = render(replace(sample(), answers=None, classes=classes, map=evil))
        parsed = Page(page)
        assert page.count("<script") == 2
        assert not any(name.startswith("on") for _, attributes in parsed.tags for name in attributes)
        assert len([a for a in parsed.all("img") if a.get("src") == "x"]) == 0
        data, _ = parts(page)
        assert data["names"][0] == explore.shortened(EVIL, explore.NAME)
        assert data["uri"][0].startswith(EVIL[:20])


def test_equal_maps_give_equal_bytes(page: str) -> None:
    assert render(replace(sample(), map=image_map())) == page


def test_an_answer_to_an_image_of_unknown_class_is_neither_right_nor_wrong() -> None:
    found = image_map()
    unknown = replace(found, label=np.where(found.predicted >= 0, -1, found.label))
    page = render(replace(sample(), map=unknown))
    assert re.search(r'<input[^>]*value="class"', page)
    assert not re.search(r'<input[^>]*value="answer"', page)
    assert "wrong test images (" not in page
    data, _ = parts(page)
    assert max(data["said"]) == 9  # what the model says is still shown


@pytest.mark.parametrize("changes", ["no labels", "no clusters", "nothing", "one image", "few clusters"])
def test_a_map_of_which_little_is_known_is_drawn(changes: str) -> None:
    found = image_map()
    nothing = np.full(len(found.x), -1)
    match changes:
        case "no labels":
            found = replace(found, label=nothing, predicted=nothing, labelled=nothing > 0)
        case "no clusters":
            found = replace(found, cluster=nothing, distance=nothing * np.float32("nan"), groups={})
        case "nothing":
            found = replace(found, label=nothing, predicted=nothing, labelled=nothing > 0)
            found = replace(found, cluster=nothing, distance=nothing * np.float32("nan"), groups={})
        case "one image":
            arrays = ("x", "y", "label", "labelled", "split", "cluster", "distance", "predicted")
            cut = {name: getattr(found, name)[:1] for name in (*arrays, "confidence", "uri")}
            found = replace(found, **cut, total=1, random=1)
        case "few clusters":
            found = replace(
                found, cluster=found.cluster % 3, groups={c: Group(9, c, 0.5, 8) for c in range(3)}
            )
    page = render(replace(sample(), map=found))
    Page(page)
    data, _ = parts(page)
    assert all(0 <= x <= explore.WIDTH for x in data["x"])
    modes = re.findall(r'name="explore-by" value="(\w+)"', page)
    assert (
        modes
        == {
            "no labels": ["cluster"],
            "no clusters": ["class", "answer"],
            "nothing": [],
            "one image": ["class", "cluster"],
            "few clusters": ["class", "cluster", "answer"],
        }[changes]
    )
    assert ("too many for colours" in page) == (len(found.groups) > explore.COLOURED)


def test_the_file_stays_bounded_with_tens_of_thousands_of_images() -> None:
    rng = np.random.default_rng(0)
    n, k, classes = 9000, 3000, 1000  # the most that evaluate.explore.points allows
    many = ImageMap(
        x=rng.normal(size=n).astype(np.float32),
        y=rng.normal(size=n).astype(np.float32),
        label=rng.integers(0, classes, n),
        labelled=rng.random(n) < 0.3,
        split=("train", "test", "unlabelled") * (n // 3),
        cluster=rng.integers(0, k, n),
        distance=rng.random(n).astype(np.float32),
        predicted=rng.integers(0, classes, n),
        confidence=rng.random(n).astype(np.float32),
        uri=tuple(f"{'a folder with a long name/' * 40}{i}.jpg" for i in range(n)),
        total=80_000,
        random=3000,
        projection="pca",
        explained=(0.2, 0.1),
        sprite=bytes(sprite.LIMIT),
        side=32,
        columns=95,
        groups={c: Group(1000, c % classes, 0.5, 900) for c in range(k)},
    )
    section = explore.section(many, [f"class {i} {'x' * 300}" for i in range(classes)], codes=False)
    assert len(section.encode()) < 4_500_000


def test_steps_are_as_long_on_both_axes_and_all_points_are_inside() -> None:
    rng = np.random.default_rng(4)
    for spread in ((9, 1), (1, 9), (1, 1), (0, 0), (1, 0)):
        x, y = (rng.normal(size=50) * each for each in spread)
        across, down, height = explore.places(x.astype(np.float32), y.astype(np.float32))
        assert explore.LOWEST <= height <= explore.WIDTH
        assert min(across) >= explore.MARGIN - 1
        assert max(across) <= explore.WIDTH - explore.MARGIN + 1
        assert min(down) >= explore.MARGIN - 1
        assert max(down) <= height - explore.MARGIN + 1
        if all(spread):
            units = np.polyfit(x, across, 1)[0], -np.polyfit(y, down, 1)[0]
            assert units[0] == pytest.approx(units[1], rel=0.05)


def test_long_names_keep_both_ends() -> None:
    assert explore.shortened("short", 10) == "short"
    assert explore.shortened("0123456789ab", 9) == "0123…89ab"
    assert len(explore.shortened("x" * 500, explore.URI)) == explore.URI


# Colours

MACHADO = {
    "usual": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
"""What is left of linear RGB without one kind of cone (Machado, Oliveira and Fernandes 2009)."""


def linear(colour: str) -> np.ndarray:
    parts = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def oklab(rgb: np.ndarray) -> np.ndarray:
    """Linear RGB -> OKLab (Ottosson 2020), in which distances are about what people see."""
    lms = (
        rgb
        @ np.array(
            [
                [0.4122214708, 0.5363325363, 0.0514459929],
                [0.2119034982, 0.6806995451, 0.1073969566],
                [0.0883024619, 0.2817188376, 0.6299787005],
            ]
        ).T
    )
    return np.asarray(
        np.cbrt(lms)
        @ np.array(
            [
                [0.2104542553, 0.7936177850, -0.0040720468],
                [1.9779984951, -2.4285922050, 0.4505937099],
                [0.0259040371, 0.7827717662, -0.8086757660],
            ]
        ).T
    )


def apart(colours: Sequence[str], eyes: str) -> np.ndarray:
    """The distances in OKLab between colours (N,), as some eyes see them -> (N, N)."""
    left = np.array([linear(each) for each in colours]) @ np.array(MACHADO[eyes]).T
    seen = oklab(np.clip(left, 0, 1))
    return np.asarray(np.linalg.norm(seen[:, None] - seen[None], axis=-1))


def least(distances: np.ndarray) -> float:
    return float(distances[np.triu_indices(len(distances), 1)].min())


def differences(colours: Sequence[str]) -> np.ndarray:
    """CIEDE2000 between colours (N,), for usual eyes -> (N, N). A difference of 1 can just be seen."""
    colour = pytest.importorskip("skimage.color")
    lab = colour.rgb2lab(np.array([[int(each[i : i + 2], 16) / 255 for i in (1, 3, 5)] for each in colours]))
    return np.asarray(colour.deltaE_ciede2000(lab[:, None], lab[None]))


def contrast(one: str, other: str) -> float:
    """WCAG's ratio."""
    dark, light = sorted(float(linear(each) @ [0.2126, 0.7152, 0.0722]) for each in (one, other))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("ground", ["LIGHT", "DARK"])
@pytest.mark.parametrize("eyes", list(MACHADO))
def test_the_colours_are_told_apart_by_all_eyes(ground: str, eyes: str) -> None:
    page = getattr(figures, ground)
    assert least(apart(getattr(explore, ground), eyes)) > 0.085
    mixed = (
        0.45 * int(page["neutral"][i : i + 2], 16) + 0.55 * int(page["card"][i : i + 2], 16)
        for i in (1, 3, 5)
    )
    unknown = "#" + "".join(f"{round(each):02x}" for each in mixed)  # --faint in explore.css
    assert apart((*getattr(explore, ground), unknown), eyes)[-1, :-1].min() > 0.08


@pytest.mark.parametrize("ground", ["LIGHT", "DARK"])
def test_no_two_colours_look_alike_and_all_stand_out_from_the_card(ground: str) -> None:
    assert least(differences(getattr(explore, ground))) > 21
    card = getattr(figures, ground)["card"]
    assert all(contrast(each, card) > 2.2 for each in getattr(explore, ground))


def test_near_colours_would_be_noticed() -> None:
    assert least(differences(("#22b482", "#1b7962"))) < 21  # two greens that the dark map once had
    assert least(apart(("#56b4e9", "#cc79a7", "#009e73"), "deuteranopia")) < 0.085  # Okabe and Ito's purple
    assert contrast("#f0e442", figures.LIGHT["card"]) < 2.2  # and their yellow


@pytest.mark.parametrize("k", [10, 12])
def test_the_dots_of_the_second_half_have_a_hole(k: int) -> None:
    found = image_map(k=10)
    found = replace(
        found, cluster=np.arange(len(found.x)) % k, groups={c: Group(9, c, 0.5, 8) for c in range(k)}
    )
    page = render(replace(sample(), map=found))
    dot = r'<path d="(M\d+ \d+h0)" class="c(\w+) k(\w+) [^"]+"/>'
    drawn = re.findall(dot + r'\s*(?:<path class="hole ([^"]+)" d="(M\d+ \d+h0)"/>)?', page)
    assert len(drawn) == len(found.x)
    for place, of_class, of_cluster, hole, at in drawn:
        marks = (f"{letter}{rank}" for letter, rank in (("c", of_class), ("k", of_cluster)) if int(rank) >= 6)
        assert hole == " ".join(marks)
        assert at == (place if hole else "")
    assert page.count(' hollow"></i>') == 10 - 6 + k - 6
