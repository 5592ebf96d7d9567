"""Whether an exported file answers as the network does, how often it is right, and how fast it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from models.export.answering import BATCH, Answer, Floats, Pixels

COUNTS = (1, 3, 17)
"""Numbers of images at a time that every file must take."""
NEAR = 1e-4
"""If the two best logits differ by less, rounding may decide which one is the answer."""
CLOSE = 1e-3
"""Largest difference of a probability between batches of different sizes."""


@dataclass(frozen=True)
class Compared:
    """A file's answers beside those of the network.

    Attributes:
        n: number of images.
        difference: largest absolute difference of a probability.
        agreement: share of images with the same answer.
        contradicted: number of images with another answer although the network's two best logits differ by
            more than `NEAR`.
        near: positions of the images with another answer whose two best logits differ by less than `NEAR`.
        accuracy: share of the labelled images that are answered rightly; None without labels.
        labelled: number of labelled images.
    """

    n: int
    difference: float
    agreement: float
    contradicted: int
    near: tuple[int, ...]
    accuracy: float | None
    labelled: int


def compare(expected: Floats, found: Floats, label: NDArray[np.int64], temperature: float) -> Compared:
    """Compare a file's probabilities (N, K) with the network's.

    Args:
        expected: the network's.
        found: the file's.
        label: (N,) classes; -1 for an image without a label.
        temperature: T of the probabilities.
    """
    answer, other = expected.argmax(1), found.argmax(1)
    best = np.sort(expected.astype(np.float64), axis=1)[:, -2:]
    with np.errstate(divide="ignore"):
        margin = temperature * (np.log(best[:, 1]) - np.log(best[:, 0]))
    differs = (answer != other) | ~np.isfinite(found).all(axis=1)
    return Compared(
        n=len(expected),
        difference=float(np.abs(expected - found).max()),
        agreement=float(1 - differs.mean()),
        contradicted=int((differs & ~(margin < NEAR)).sum()),
        near=tuple(np.flatnonzero(differs & (margin < NEAR)).tolist()),
        accuracy=accuracy(found, label),
        labelled=int((label >= 0).sum()),
    )


def accuracy(found: Floats, label: NDArray[np.int64]) -> float | None:
    """Share of the labelled images that are answered rightly; None without labels."""
    known = label >= 0
    return float((found.argmax(1) == label)[known].mean()) if known.any() else None


def refusal(compared: Compared, own: float | None, max_drop: float, *, exact: bool) -> str | None:
    """Why a file is refused, with the figure; None if it is good.

    Args:
        compared: the file's answers.
        own: accuracy of the network itself on the same images; None without labels.
        max_drop: how many points of accuracy the file may lose. Without labels: how many points of agreement.
        exact: whether every answer must be the network's own, except where rounding decides.
    """
    if exact and compared.contradicted:
        return (
            f"it contradicts the network on {compared.contradicted} of {compared.n} test images "
            f"(largest difference of a probability {compared.difference:.2g})"
        )
    if compared.accuracy is not None and own is not None:
        drop = 100 * (own - compared.accuracy)
        if drop > max_drop + 1e-9:
            return (
                f"it is right about {compared.accuracy:.1%} of {compared.labelled} test images, the network "
                f"about {own:.1%}: {drop:.1f} points less, and export.max_drop allows {max_drop:g}"
            )
    elif 100 * (1 - compared.agreement) > max_drop + 1e-9:
        return (
            f"it agrees with the network on {compared.agreement:.1%} of {compared.n} test images, and "
            f"export.max_drop allows a loss of {max_drop:g} points"
        )
    return None


def batch_refusal(answer: Answer, images: Pixels, *, real: bool) -> str | None:
    """Why a file is refused: it fails, or answers differently, for some number of images. None if it is good.

    Args:
        answer: the file.
        images: (N, S, S, C) squares.
        real: whether answers must be equal. In a 1-bit network, rounding may flip a sign.
    """
    last = min(max(COUNTS), len(images))
    whole = answer(images[:last])[0]
    for count in COUNTS:
        part = np.resize(images, (count, *images.shape[1:]))
        try:
            found = answer(part)[0]
        except Exception as error:
            return f"it fails for {count} images at a time: {' '.join(str(error).split())[:200]}"
        same = min(count, last)
        if len(found) != count or (real and not np.allclose(found[:same], whole[:same], atol=CLOSE)):
            return f"its answers for {count} images at a time differ from those for {last}"
    return None


def rate(answer: Answer, images: Pixels, seconds: float = 0.5) -> float:
    """Images per second in batches of `BATCH`: the fastest of the passes that fit into some seconds."""
    batch = np.resize(images, (BATCH, *images.shape[1:]))
    answer(batch)
    fastest, until, passes = np.inf, perf_counter() + seconds, 0
    while passes < 2 or perf_counter() < until:
        start = perf_counter()
        answer(batch)
        fastest, passes = min(fastest, perf_counter() - start), passes + 1
    return float(BATCH / fastest)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch and NumPy use this many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with threadpool_limits(count):
            yield
    finally:
        torch.set_num_threads(before)
