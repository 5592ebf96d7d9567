"""The section of the report with the map of the images: an SVG, the data behind it, and a small script.

The map and its colours work without the script. With it, a reader can point at images and open clusters, by
mouse, touch or keyboard. The script is part of the page, and the page's policy names its hash: no other
script can run, whatever the names of classes and files are.
"""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from tasks.report import templates
from tasks.report.content import Group, ImageMap
from tasks.report.numbers import count, narrow

LIGHT = ("#0072b2", "#d55e00", "#009e73", "#e69f00", "#56b4e9", "#000000")
DARK = ("#0072b2", "#d55e00", "#009e73", "#e69f00", "#56b4e9", "#f0e442")
"""Colours of classes and clusters: those of Okabe and Ito (2008), which people tell apart with any kind of
cones. The last one is black on the light card and yellow on the dark one. Their reddish purple is left out,
because it is near the green and the blue if a kind of cones is missing."""
COLOURED = 2 * len(LIGHT)
"""With more classes or clusters than this, only the one that is chosen has a colour. Those in the second half
have the colours of the first half again, with a hole in each dot."""
WIDTH = 1000
"""Width of the drawing in its own units."""
LOWEST, MARGIN = 560, 24
"""Its smallest height, and the empty margin at each side."""
URI, NAME = 80, 60
"""Most characters of a file's name and of a class's name on the map."""


def script() -> Markup:
    """The script, as it stands in the page."""
    return Markup(_file("explore.js"))


def policy() -> str:
    """What the page's policy says of scripts: only this one runs."""
    digest = hashlib.sha256(script().encode()).digest()
    return f"script-src 'sha256-{b64encode(digest).decode()}'"


def style() -> Markup:
    """The styles of the section."""
    light, dark = (
        " ".join(f"--m{i}: {colour};" for i, colour in enumerate(palette)) for palette in (LIGHT, DARK)
    )
    rules = [
        f".explore {{ {light} }}",
        f"@media (prefers-color-scheme: dark) {{ @media not print {{ .explore {{ {dark} }} }} }}",
    ]
    for mode, letter in (("class", "c"), ("cluster", "k")):
        checked = f".explore:has([value={mode}]:checked) .dots"
        for i in range(COLOURED):
            places = f".legend .{letter}{i}, {checked} .{letter}{i}"
            rules.append(f"{places} {{ --dot: var(--m{i % len(LIGHT)}); }}")
        holes = ", ".join(f"{checked} .hole.{letter}{i}" for i in range(len(LIGHT), COLOURED))
        rules.append(f"{holes} {{ stroke: var(--card); }}")
    return Markup("\n".join([_file("explore.css"), *rules]))


def section(found: ImageMap, classes: Sequence[str], *, codes: bool) -> Markup:
    """The section's HTML.

    Args:
        found: the map.
        classes: names of the classes, by number; empty if there are none.
        codes: whether the clusters are the pretext method's codes.
    """
    right = _right(found)
    order = _order(found, right)
    x, y, height = places(found.x[order], found.y[order])
    names = [shortened(name, NAME) for name in classes]
    word = "code" if codes else "cluster"
    colours = {
        "class": dict(enumerate(range(len(names)))) if len(names) <= COLOURED else {},
        "cluster": dict(zip(sorted(found.groups), range(COLOURED), strict=False))
        if len(found.groups) <= COLOURED
        else {},
    }
    has = {
        "class": bool((found.label >= 0).any()),
        "cluster": bool((found.cluster >= 0).any()),
        "answer": bool((right >= 0).any()),
    }
    counts = {
        "labelled": int(found.labelled.sum()),
        "wrong": int((right == 0).sum()),
        "right": int((right == 1).sum()),
    }
    besides = {
        f"labelled images ({shown(counts['labelled'])} on the map)": counts["labelled"],
        f"wrong test images ({shown(counts['wrong'])} on the map)": counts["wrong"],
        f"the most typical images of each {word}": has["cluster"],
    }
    points = [
        (f"M{left} {top}h0", _marks(found, int(right[i]), i, colours), _hole(found, i, colours))
        for i, left, top in zip(order.tolist(), x, y, strict=True)
    ]
    template = templates.load("explore.html.j2", {"count": shown})
    return Markup(
        template.render(
            map=found,
            n=len(order),
            word=word,
            names=names,
            has=has,
            few={"class": len(names) <= COLOURED, "cluster": len(found.groups) <= COLOURED},
            modes=[mode for mode, there in has.items() if there],
            points=points,
            labelled=[place for (place, *_), i in zip(points, order, strict=True) if found.labelled[i]],
            hollow=range(len(LIGHT), COLOURED),
            counts=counts,
            besides=[text for text, there in besides.items() if there],
            groups=colours["cluster"].items(),
            height=height,
            width=WIDTH,
            data=_data(found, order, x, y, names, word),
            sprite=b64encode(found.sprite).decode(),
            script=script(),
        )
    )


def _right(found: ImageMap) -> NDArray[np.int64]:
    """1: the answer is right. 0: it is wrong. -1: there is none, or the class is unknown."""
    known = (found.predicted >= 0) & (found.label >= 0)
    return np.where(known, found.predicted == found.label, -1).astype(np.int64)


def _marks(found: ImageMap, right: int, i: int, colours: dict[str, dict[int, int]]) -> str:
    """The classes of a point in the drawing: colour as class and as cluster (x: none), answer, labelled."""
    of_class = colours["class"].get(int(found.label[i]), "x")
    of_cluster = colours["cluster"].get(int(found.cluster[i]), "x")
    marks = f"c{of_class} k{of_cluster} {('w', 'r', 'u')[right]}"
    return f"{marks} l" if found.labelled[i] else marks


def _hole(found: ImageMap, i: int, colours: dict[str, dict[int, int]]) -> str:
    """The classes of the hole in a point's dot: its colours, if one of them has a hole; empty without one."""
    ranks = (
        (letter, colours[mode].get(int(of[i]), -1))
        for mode, letter, of in (("class", "c", found.label), ("cluster", "k", found.cluster))
    )
    return " ".join(f"{letter}{rank}" for letter, rank in ranks if rank >= len(LIGHT))


def shown(number: int) -> str:
    """A number of images as the page writes it."""
    return narrow(count(number))


def places(x: NDArray[np.float32], y: NDArray[np.float32]) -> tuple[list[int], list[int], int]:
    """Scale places to the drawing. A step is as long on both axes.

    Args:
        x: (N,) finite.
        y: (N,) finite.

    Returns:
        The places in whole units, with y downwards, and the height of the drawing.
    """
    low, spans = (float(x.min()), float(y.min())), (float(np.ptp(x)), float(np.ptp(y)))
    inner = WIDTH - 2 * MARGIN
    unit = inner / max(spans) if max(spans) > 0 else 0.0
    height = int(min(max(spans[1] * unit + 2 * MARGIN, LOWEST), WIDTH))
    left, top = (WIDTH - spans[0] * unit) / 2, (height - spans[1] * unit) / 2
    across = np.rint(left + (x - low[0]) * unit).astype(int).tolist()
    down = np.rint(height - top - (y - low[1]) * unit).astype(int).tolist()
    return across, down, height


def shortened(text: str, most: int) -> str:
    """At most `most` characters of a text. The middle is left out, because names differ at their ends."""
    if len(text) <= most:
        return text
    half = (most - 1) // 2
    return f"{text[: most - 1 - half]}…{text[-half:]}"


def _order(found: ImageMap, right: NDArray[np.int64]) -> NDArray[np.int64]:
    """The order in which points are drawn: shuffled, then labelled ones, then wrong ones on top."""
    shuffled = np.random.default_rng(0).permutation(len(found.x))
    rank = np.where(right == 0, 2, np.where(found.labelled, 1, 0))
    order: NDArray[np.int64] = shuffled[np.argsort(rank[shuffled], kind="stable")]
    return order


def _data(
    found: ImageMap, order: NDArray[np.int64], x: list[int], y: list[int], names: list[str], word: str
) -> Markup:
    """What the script reads, as JSON in which no `<` can end the element around it."""
    near = np.empty(len(order), np.int64)
    near[np.argsort(found.distance[order], kind="stable")] = np.arange(len(order))
    splits = ("train", "unlabelled", "test")
    sure = np.nan_to_num(found.confidence[order] * 100)
    values: dict[str, Any] = {
        "word": word,
        "side": found.side,
        "columns": found.columns,
        "names": names,
        "groups": {str(c): _told(group) for c, group in sorted(found.groups.items())},
        "x": x,
        "y": y,
        "tile": order.tolist(),
        "label": found.label[order].tolist(),
        "drawn": found.labelled[order].astype(int).tolist(),
        "split": [splits.index(found.split[i]) for i in order],
        "cluster": found.cluster[order].tolist(),
        "near": near.tolist(),
        "said": found.predicted[order].tolist(),
        "sure": np.rint(sure).astype(int).tolist(),
        "uri": [shortened(found.uri[i], URI) for i in order],
    }
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))


def _told(group: Group) -> list[int]:
    """A cluster as numbers: images, most frequent class (-1: none), its share in %, images of known class."""
    share = -1 if group.purity is None else round(100 * group.purity)
    return [group.size, -1 if group.majority is None else group.majority, share, group.known]


def _file(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")
