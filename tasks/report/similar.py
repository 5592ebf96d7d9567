"""A page of images beside the training images that are most similar to them. One file, opens offline."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tasks.report import templates

SIDE = 96
"""Side of a picture on the page, px."""


@dataclass(frozen=True)
class Pair:
    """An image and its neighbours.

    Attributes:
        pixels: (S, S, C) uint8.
        uri: its name.
        said: its predicted class; empty if no class was asked for.
        probability: of this class, or None.
        neighbours: (pixels, uri, class or "", cosine) of each, most similar first.
    """

    pixels: NDArray[np.uint8]
    uri: str
    said: str
    probability: float | None
    neighbours: Sequence[tuple[NDArray[np.uint8], str, str, float]]


def page(pairs: Sequence[Pair], run: str) -> str:
    """Write the page.

    Args:
        pairs: the images.
        run: the run's name.
    """
    return templates.load("similar.html.j2", {"picture": _picture}).render(pairs=pairs, run=run, side=SIDE)


def _picture(pixels: NDArray[np.uint8]) -> str:
    """The address of a picture that is in the page itself. Of bands, the first is shown in grey."""
    image = Image.fromarray(pixels if pixels.shape[2] == 3 else np.ascontiguousarray(pixels[..., 0]))
    if image.width > SIDE:
        image = image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    file = BytesIO()
    image.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
