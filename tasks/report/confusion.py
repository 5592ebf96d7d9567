"""The drawing of the confusion matrix: where its cells and names are. The template writes it as SVG."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LARGEST = 50
"""Most classes of a matrix that can be read. With more, the page lists the most confused pairs instead."""
SIDES = ((12, 38, 22), (25, 28, 22), (36, 20, 18), (LARGEST, 15, 18))
"""Up to a number of classes: the side of a cell in px, and the most characters of a name.

With these, the drawing is at most 998 px wide, which is what a page of 1280 px has room for.
"""
CHARACTER = 6.6
"""Width of a character of a name, px."""
DIGIT = 5.8
"""Width of a digit in a cell, px."""


@dataclass(frozen=True)
class Cell:
    """A cell of the matrix that is not 0.

    Attributes:
        x: its left side, px from the left side of the matrix.
        y: its upper side, px from the upper side of the matrix.
        n: number of images.
        text: what is written in it; empty if the number does not fit.
        share: their share of the images of the true class, in (0, 1].
        right: whether the answer is right.
        title: what it says, in words.
    """

    x: float
    y: float
    n: int
    text: str
    share: float
    right: bool
    title: str


@dataclass(frozen=True)
class Drawing:
    """A confusion matrix as it is drawn.

    Attributes:
        side: of a cell, px.
        left: width of the names on the left, px.
        top: height of the names above, px.
        slanted: whether the names above are too long to stand level.
        size: side of the matrix, px.
        names: names of the classes. Long ones are cut; the cells' titles have them whole.
        cells: cells that are not 0.
    """

    side: int
    left: float
    top: float
    slanted: bool
    size: int
    names: tuple[str, ...]
    cells: tuple[Cell, ...]

    @property
    def width(self) -> float:
        """Width of the whole, px. The slanted names above the last columns reach beyond the matrix."""
        return self.left + self.size + (self.top if self.slanted else 2)

    @property
    def height(self) -> float:
        """Height of the whole, px."""
        return self.top + self.size


def draw(matrix: NDArray[np.int64], names: tuple[str, ...]) -> Drawing | None:
    """Place the cells and names. None if there are more than LARGEST classes.

    Args:
        matrix: (C, C) number of images by true class (row) and answer (column).
        names: C names.
    """
    classes = len(names)
    if classes > LARGEST:
        return None
    side, most = next((side, most) for upto, side, most in SIDES if classes <= upto)
    short = tuple(name if len(name) <= most else name[: most - 1] + "…" for name in names)
    longest = CHARACTER * max(map(len, short), default=0)
    cells = []
    of = np.maximum(matrix.sum(axis=1), 1)
    for row, col in np.argwhere(matrix).tolist():
        n = int(matrix[row, col])
        told = f"{names[row]}, {'right' if row == col else f'taken for {names[col]}'}: {n} of {of[row]}"
        text = str(n) if DIGIT * len(str(n)) <= side - 2 else ""
        cells.append(Cell(col * side, row * side, n, text, n / int(of[row]), row == col, told))
    slanted = longest > side - 4
    top = 0.71 * longest + 20 if slanted else 24
    return Drawing(side, longest + 12, top, slanted, classes * side, short, tuple(cells))
