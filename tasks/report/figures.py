"""Figures: SVG that takes its colours and fonts from the page, and PNG for Prefect's markdown artifacts.

Only this module imports matplotlib. It uses `Figure` objects and never pyplot, so nothing is global and no
display is needed.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO, StringIO
from math import isfinite
from typing import Any, NamedTuple, cast

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, PercentFormatter
from numpy.typing import NDArray

from data.checkpoints import LogRow
from data.intervals import wilson
from tasks.phrases import percent
from tasks.report import sheets
from tasks.report.content import Answered, ConfidenceBin
from tasks.report.numbers import narrow

LIGHT = {
    "paper": "#f6f6f3",
    "card": "#ffffff",
    "ink": "#1b2130",
    "muted": "#5b6373",
    "line": "#dfe1e6",
    "first": "#3d5bc4",
    "second": "#0b7d72",
    "third": "#b4501b",
    "neutral": "#686e7a",
}
DARK = {
    "paper": "#11141a",
    "card": "#191d26",
    "ink": "#e9ebf0",
    "muted": "#a0a8b7",
    "line": "#303643",
    "first": "#93a8ff",
    "second": "#4ecdb9",
    "third": "#f2a56c",
    "neutral": "#969dab",
}
"""The page's colours.

first: teachers and losses. second: students and clusters. third: learning rates and inputs. neutral: the
baseline. Every colour but `line` has a contrast of at least 4.5 on card and paper.
"""

PNG_LIMIT = 200_000
"""Bytes. Larger Prefect artifacts slow its server down."""
POINTS = 240
"""Most points of a curve. Longer curves show means over equal stretches, in a band from lowest to highest."""

_STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "text.color": LIGHT["ink"],
    "axes.labelcolor": LIGHT["muted"],
    "axes.edgecolor": LIGHT["line"],
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": LIGHT["line"],
    "grid.linewidth": 0.6,
    "xtick.color": LIGHT["line"],
    "ytick.color": LIGHT["line"],
    "xtick.labelcolor": LIGHT["muted"],
    "ytick.labelcolor": LIGHT["muted"],
    "lines.linewidth": 1.6,
    "lines.solid_joinstyle": "round",
    "figure.constrained_layout.use": True,
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
}


class PastRun(NamedTuple):
    """A run among others over time. All shares are between 0 and 1, None if there is none.

    Attributes:
        time: when it was scheduled, or began.
        images: how many images it had.
        score: the score that runs are ranked by.
        share: share of images that were new, changed or gone.
        shift: how much the mean distance to the centroids changed, relative to what it was.
        far: share of images that are far from their centroid.
        pinned: True if it kept what an earlier run had trained.
    """

    time: datetime
    images: int
    score: float | None
    share: float | None
    shift: float | None
    far: float | None
    pinned: bool


@dataclass(frozen=True)
class Bar:
    """One model's score with its interval, all in [0, 1]. `colour` is a key of LIGHT."""

    label: str
    value: float
    low: float
    high: float
    colour: str = "first"


@dataclass(frozen=True)
class Contrast:
    """A difference with its interval, in points, and the range where a claim puts it.

    Attributes:
        label: what is compared.
        mean: the difference.
        low: lower end of its interval.
        high: its upper end.
        least: the claim holds above this, if it has a lower end.
        most: the claim holds below this, if it has an upper end.
        colour: a key of LIGHT.
    """

    label: str
    mean: float
    low: float
    high: float
    least: float | None
    most: float | None
    colour: str = "neutral"


def loss_curve_svg(rows: Sequence[LogRow], prefix: str) -> str:
    """Loss and, if logged, learning rate of one training. `prefix` makes ids unique on the page."""
    with _style():
        return _svg(_loss_curve(rows), prefix)


def loss_curve_png(rows: Sequence[LogRow]) -> bytes:
    """Loss and, if logged, learning rate of one training, as PNG of at most 200 kB."""
    with _style():
        return _png(_loss_curve(rows))


def scores_svg(bars: Sequence[Bar], prefix: str) -> str:
    """One score of several models, with intervals. `prefix` makes ids unique on the page."""
    with _style():
        return _svg(_scores(bars), prefix)


def cluster_sizes_svg(sizes: Sequence[int] | NDArray[np.int64], prefix: str) -> str:
    """Cluster sizes, largest first, against an even share. `prefix` makes ids unique on the page."""
    with _style():
        return _svg(_cluster_sizes(np.asarray(sizes, np.int64)), prefix)


def cluster_sizes_png(sizes: Sequence[int] | NDArray[np.int64]) -> bytes:
    """Cluster sizes, largest first, against an even share, as PNG of at most 200 kB."""
    with _style():
        return _png(_cluster_sizes(np.asarray(sizes, np.int64)))


def history_png(runs: Sequence[PastRun]) -> bytes:
    """Score, number of images and drift of each run, as PNG of at most 200 kB."""
    with _style():
        return _png(_history(runs))


def contrasts_png(contrasts: Sequence[Contrast]) -> bytes:
    """Differences with intervals, on the ranges where claims put them, as PNG of at most 200 kB."""
    with _style():
        return _png(_contrasts(contrasts))


def objective_svg(objective: Sequence[float], prefix: str) -> str:
    """Mean squared distance to the nearest centroid, per K-means iteration. `prefix` makes ids unique."""
    with _style():
        figure = Figure(figsize=(4.6, 2.6))
        axes = figure.subplots()
        axes.plot(
            range(1, len(objective) + 1),
            objective,
            color=LIGHT["second"],
            marker="o",
            markersize=3 if len(objective) <= 40 else 0,
        )
        axes.set_xlabel("iteration")
        axes.set_ylabel("mean squared distance")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        return _svg(figure, prefix)


def reliability_svg(bins: Sequence[ConfidenceBin], histogram: Sequence[int], prefix: str) -> str:
    """Accuracy against confidence, above the number of images at each confidence.

    Args:
        bins: images of similar confidence, in order of confidence.
        histogram: number of images by confidence, in equal steps from 0 to 1.
        prefix: makes ids unique on the page.
    """
    with _style():
        return _svg(_reliability(bins, histogram), prefix)


def selective_svg(answered: Sequence[Answered], prefix: str) -> str:
    """Accuracy of the most confident answers against their share. `prefix` makes ids unique on the page."""
    with _style():
        return _svg(_selective(answered), prefix)


def contact_sheet_png(images: Sequence[Sequence[NDArray[np.uint8]]], captions: Sequence[str]) -> bytes:
    """Images of several clusters, below each other and with a caption each, as PNG of at most 200 kB.

    Args:
        images: for each cluster its (h, w, 3) uint8 images, nearest to the centroid first.
        captions: one line for each cluster.
    """
    pictures = []
    for cluster in images:
        pixels, drawn = sheets.sheet(cluster, columns=10, side=64)
        pixels[~drawn] = 255
        pictures.append(pixels)
    caption, dpi = 24, 100
    width = max([640, *(picture.shape[1] for picture in pictures)]) + 16
    height = sum(picture.shape[0] + caption for picture in pictures) + 16
    with _style():
        figure = Figure(figsize=(width / dpi, height / dpi), dpi=dpi, facecolor=LIGHT["card"])
        figure.set_layout_engine("none")
        top = height - 8
        for picture, text in zip(pictures, captions, strict=True):
            figure.text(8 / width, (top - caption / 2) / height, text, va="center", parse_math=False)
            top -= caption + picture.shape[0]
            figure.figimage(picture, 8, top, origin="upper")
        return _png(figure, dpi=dpi)


def learning_rate(name: str) -> bool:
    """True if a logged value is a learning rate: `learning_rate`, `lr`, `main/learning_rate` ..."""
    return re.search(r"(^|[/._ ])(learning_rate|lr)($|[/._ ])", name) is not None


def _loss_curve(rows: Sequence[LogRow]) -> Figure:
    losses = [row for row in rows if row.name == "loss" and isfinite(row.value)]
    rates: dict[str, list[LogRow]] = {}
    for row in rows:
        if learning_rate(row.name) and isfinite(row.value):
            rates.setdefault(row.name, []).append(row)
    by_epoch = max((row.epoch for row in rows), default=0.0) > 1
    figure = Figure(figsize=(3.9, 3.0 if rates else 2.3))
    if rates:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    else:
        upper = lower = figure.subplots()
    _curve(upper, losses, LIGHT["first"], by_epoch)
    upper.set_ylabel("loss")
    values = [row.value for row in losses]
    if values and min(values) > 0 and max(values) > 50 * min(values):
        _log(upper, values)
    else:
        upper.yaxis.set_major_locator(MaxNLocator(5))
    for group in rates.values():
        _curve(lower, group, LIGHT["third"], by_epoch)
    if rates:
        peak = max(row.value for group in rates.values() for row in group)
        lower.set_ylim(0, 1.1 * peak or 1)
        lower.set_yticks([0, peak] if peak > 0 else [0], ["0", f"{peak:.2g}"] if peak > 0 else ["0"])
        lower.set_ylabel("rate")
    lower.set_xlabel("epoch" if by_epoch else "step")
    lower.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    lower.set_xlim(left=0)
    return figure


def _curve(axes: Axes, rows: Sequence[LogRow], colour: str, by_epoch: bool) -> None:
    rows = sorted(rows, key=lambda row: row.step)
    x = np.array([row.epoch if by_epoch else row.step for row in rows], np.float64)
    y = np.array([row.value for row in rows], np.float64)
    if len(rows) > POINTS:
        pieces = np.array_split(np.arange(len(rows)), POINTS)
        low, high = (np.array([f(y[piece]) for piece in pieces]) for f in (np.min, np.max))
        x, y = (np.array([a[piece].mean() for piece in pieces]) for a in (x, y))
        axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.plot(x, y, color=colour, marker="o" if len(rows) == 1 else "", markersize=4)


def _history(runs: Sequence[PastRun]) -> Figure:
    figure = Figure(figsize=(7.2, 4.6))
    score, images, drift = figure.subplots(3, 1, sharex=True)
    at = range(len(runs))  # by number: on a time axis, reruns within an hour would cover each other

    def line(axes: Axes, values: Sequence[float | None], colour: str, label: str | None = None) -> None:
        known = [np.nan if value is None else value for value in values]
        axes.plot(at, known, color=LIGHT[colour], label=label)

    line(score, [run.score for run in runs], "second")
    trained = [i for i in at if not runs[i].pinned and runs[i].score is not None]
    score.plot(trained, [runs[i].score for i in trained], "o", color=LIGHT["second"], markersize=4)
    score.set_ylabel("score\n(dot: trained)")
    score.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
    line(images, [run.images for run in runs], "first")
    images.set_ylabel("images")
    images.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    images.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    line(drift, [run.share for run in runs], "first", "new, changed, gone")
    line(drift, [run.shift for run in runs], "second", "shift")
    line(drift, [run.far for run in runs], "third", "far")
    drift.set_ylabel("drift")
    drift.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    drift.legend(frameon=False, ncols=3, loc="upper left", fontsize=8)
    shown = sorted({0, len(runs) // 2, len(runs) - 1})
    drift.set_xticks(shown, [f"{runs[i].time:%Y-%m-%d %H:%M}" for i in shown])
    return figure


def _scores(bars: Sequence[Bar]) -> Figure:
    figure = Figure(figsize=(5.2, 0.5 + 0.32 * max(1, len(bars))))
    axes = figure.subplots()
    for y, bar in enumerate(bars):
        colour = LIGHT[bar.colour]
        axes.plot([bar.low, bar.high], [y, y], color=colour, linewidth=5, alpha=0.28, solid_capstyle="round")
        axes.plot([bar.value], [y], color=colour, marker="o", markersize=7)
        axes.annotate(
            narrow(percent(bar.value)),
            (bar.high, y),
            (7, 0),
            textcoords="offset points",
            va="center",
            annotation_clip=False,
        )
    _rows(axes, [bar.label for bar in bars])
    axes.xaxis.set_major_formatter(FuncFormatter(_share))
    axes.xaxis.set_major_locator(MaxNLocator(6))
    if bars:
        low, high = min(bar.low for bar in bars), max(bar.high for bar in bars)
        pad = 0.05 * (high - low or 1)
        # Leave room on the right for the last value.
        axes.set_xlim(max(0.0, low - pad), high + 3.2 * pad)
        axes.set_xticks([t for t in axes.get_xticks() if low - pad <= t <= min(1.0, high + pad)])
    return figure


def _reliability(bins: Sequence[ConfidenceBin], histogram: Sequence[int]) -> Figure:
    figure = Figure(figsize=(4.6, 4.4))
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], color=LIGHT["muted"], linewidth=1, linestyle=(0, (4, 3)))
    for each in bins:
        low, high = wilson(each.accuracy, each.n)
        at = [each.confidence] * 2
        upper.plot(at, [low, high], color=LIGHT["second"], linewidth=5, alpha=0.28, solid_capstyle="round")
    upper.plot(
        [each.confidence for each in bins],
        [each.accuracy for each in bins],
        color=LIGHT["second"],
        marker="o",
        markersize=6,
        linewidth=1,
    )
    upper.annotate(
        "as sure as it is right",
        (0.5, 0.5),
        (0, 4),
        textcoords="offset points",
        rotation=37,
        rotation_mode="anchor",
        ha="center",
        fontsize=8,
        color=LIGHT["muted"],
    )
    upper.set_ylabel("right")
    upper.set_ylim(-0.02, 1.04)
    upper.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol="\u202f%"))
    edges = np.linspace(0, 1, len(histogram) + 1)
    lower.stairs(np.asarray(histogram), edges, fill=True, color=LIGHT["second"], alpha=0.75)
    lower.set_ylim(0, 1.25 * max(1, *histogram))
    for left, right, n in zip(edges[:-1], edges[1:], histogram, strict=True):
        if n:
            lower.annotate(
                f"{n:,}".replace(",", "\u202f"),
                ((left + right) / 2, n),
                (0, 2),
                textcoords="offset points",
                ha="center",
                fontsize=7,
            )
    lower.set_ylabel("images")
    lower.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    lower.set_xlabel("confidence")
    lower.set_xlim(0, 1.02)
    lower.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol="\u202f%"))
    return figure


def _selective(answered: Sequence[Answered]) -> Figure:
    figure = Figure(figsize=(4.6, 3.4))
    axes = figure.subplots()
    shares = [each.share for each in answered]
    low, high = zip(*(wilson(min(1.0, each.accuracy), each.n) for each in answered), strict=True)
    axes.fill_between(shares, low, high, color=LIGHT["second"], alpha=0.18, linewidth=0)
    axes.plot(shares, [each.accuracy for each in answered], color=LIGHT["second"], marker="o", markersize=4)
    axes.set_xlabel("share of the images that are answered, the most confident ones")
    axes.set_ylabel("right")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(_share))
        axis.set_major_locator(MaxNLocator(6))
    axes.set_xlim(0, 1.02)
    axes.set_ylim(max(0.0, min(low) - 0.03), 1.01)
    return figure


def _share(value: float, _: int | None) -> str:
    """A share as a tick's label, with no more digits than it has: `80 %` or `97.5 %`."""
    return f"{round(100 * value, 2):g}\u202f%"


def _rows(axes: Axes, labels: Sequence[str]) -> None:
    """Name the rows, from top to bottom."""
    axes.set_yticks(range(len(labels)), labels, parse_math=False)
    axes.tick_params(axis="y", length=0, labelcolor=LIGHT["ink"])
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.grid(True, axis="x")
    axes.grid(False, axis="y")
    axes.spines["left"].set_visible(False)


def _contrasts(contrasts: Sequence[Contrast]) -> Figure:
    figure = Figure(figsize=(9.0, 0.7 + 0.3 * max(1, len(contrasts))))
    axes = figure.subplots()
    reach = min(15.0, 1.3 * max((abs(contrast.mean) for contrast in contrasts), default=1.0) + 2)
    for y, contrast in enumerate(contrasts):
        colour, beyond = LIGHT[contrast.colour], abs(contrast.mean) > reach
        least = -reach if contrast.least is None else contrast.least
        most = reach if contrast.most is None else contrast.most
        axes.fill_betweenx([y - 0.42, y + 0.42], least, most, color=LIGHT["second"], alpha=0.1, linewidth=0)
        axes.plot(
            [contrast.low, contrast.high],
            [y, y],
            color=colour,
            linewidth=5,
            alpha=0.35,
            solid_capstyle="butt",
        )
        axes.plot(
            [float(np.clip(contrast.mean, -0.97 * reach, 0.97 * reach))],
            [y],
            color=colour,
            marker=("<" if contrast.mean < 0 else ">") if beyond else "o",
            markersize=7 if beyond else 6,
        )
        axes.annotate(
            f"{contrast.mean:+.1f}",
            (reach, y),
            (7, 0),
            textcoords="offset points",
            va="center",
            annotation_clip=False,
        )
    axes.axvline(0, color=LIGHT["muted"], linewidth=0.8)
    _rows(axes, [contrast.label for contrast in contrasts])
    axes.set_xlim(-reach, reach)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+.0f}" if value else "0"))
    axes.set_xlabel("difference of scores, points")
    return figure


def _cluster_sizes(sizes: NDArray[np.int64]) -> Figure:
    ordered = np.sort(sizes)[::-1]
    k = ordered.size
    figure = Figure(figsize=(4.6, 2.6))
    axes = figure.subplots()
    edges = np.arange(k + 1) + 0.5
    if k > POINTS:
        # A screen can't show more bars. Take the sizes at evenly spaced ranks.
        ranks = np.linspace(0, k - 1, POINTS).round().astype(np.int64)
        ordered, edges = ordered[ranks], np.append(ranks, k) + 0.5
    filled = ordered[ordered > 0]
    steep = bool(filled.size) and filled[0] > 50 * filled[-1]
    floor = 0.5 if steep else 0.0
    bars = np.maximum(ordered, floor)
    axes.stairs(bars, edges, fill=True, color=LIGHT["second"], alpha=0.75, baseline=floor)
    if steep:
        _log(axes, filled)
    top = float(ordered.max(initial=1))
    axes.set_ylim(floor, top * (1.6 if steep else 1.06))
    if k:
        even = float(sizes.sum()) / k
        axes.axhline(even, color=LIGHT["ink"], linewidth=1, linestyle=(0, (4, 3)))
        axes.annotate(
            f"even share {even:.0f}",
            (1, even),
            (-2, 4),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            ha="right",
            va="bottom",
            fontsize=8,
        )
    axes.set_xlim(0.5, k + 0.5)
    axes.set_xlabel("cluster, largest first")
    axes.set_ylabel("images")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    return figure


def _log(axes: Axes, values: Iterable[float]) -> None:
    axes.set_yscale("log")
    low, high = min(values), max(values)
    axes.yaxis.set_major_locator(LogLocator(10, subs=(1.0, 3.0) if high < 300 * low else (1.0,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


@contextmanager
def _style() -> Iterator[None]:
    with mpl.rc_context(cast(Any, _STYLE)), warnings.catch_warnings():
        # Names of classes and models come in every script. The page has fonts for them, matplotlib does not.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from (current )?font")
        yield


def _svg(figure: Figure, prefix: str) -> str:
    """An inline <svg> without header and metadata. Colours are CSS variables; ids begin with `prefix`."""
    file = StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    opening = r'<svg class="plot" \1 aria-hidden="true">'
    text = re.sub(r"^<svg [^>]*?(viewBox=\"[^\"]*\")[^>]*>", opening, text)
    # Inside HTML, `href` needs no namespace.
    text = text.replace("xlink:href=", "href=")
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", text)
    for name, colour in LIGHT.items():
        text = text.replace(colour, f"var(--{name})")
    return text.strip()


def _png(figure: Figure, dpi: int = 144) -> bytes:
    file = BytesIO()
    figure.savefig(file, format="png", dpi=dpi, facecolor=LIGHT["card"], metadata={"Software": None})
    return sheets.bounded(file.getvalue(), PNG_LIMIT)
