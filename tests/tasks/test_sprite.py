"""The sprite sheet: every picture in its place, read once, and a file of bounded size."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from tasks.report import sprite as module
from tasks.report.sprite import Sprite, sprite


def pixels_of(found: Sprite) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(found.webp)).convert("RGB"))


def cell(found: Sprite, i: int) -> np.ndarray:
    y, x = i // found.columns * found.side, i % found.columns * found.side
    return pixels_of(found)[y : y + found.side, x : x + found.side]


def test_small_images_keep_their_pixels_and_each_is_read_once() -> None:
    images = np.random.default_rng(0).integers(0, 256, (600, 16, 16, 3), dtype=np.uint8)
    asked: list[int] = []

    def read(part: slice) -> np.ndarray:
        asked.extend(range(part.start, part.stop))
        return images[part]

    found = sprite(read, 600, 16)
    assert asked == list(range(600))
    assert (found.side, found.columns) == (16, 25)
    assert all(np.array_equal(cell(found, i), images[i]) for i in (0, 24, 25, 599))


def test_large_images_are_shrunk_each_in_its_place() -> None:
    colours = np.random.default_rng(1).integers(0, 256, (40, 3), dtype=np.uint8)
    images = np.broadcast_to(colours[:, None, None], (40, 100, 100, 3))
    found = sprite(lambda part: images[part], 40, 100)
    assert found.side == module.SIDE
    for i in range(40):
        assert np.abs(cell(found, i).astype(int) - colours[i]).max() <= 3


def test_the_file_is_bounded_and_its_pictures_get_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LIMIT", 20_000)
    noise = np.random.default_rng(2).integers(0, 256, (150, 64, 64, 3), dtype=np.uint8)
    found = sprite(lambda part: noise[part], 150, 64)
    assert len(found.webp) <= 20_000
    assert module.SMALLEST_SIDE <= found.side < module.SIDE
    assert pixels_of(found).shape == (-(-150 // found.columns) * found.side, found.columns * found.side, 3)


@pytest.mark.slow
def test_thousands_of_images_of_noise_stay_below_the_limit() -> None:
    noise = np.random.default_rng(3).integers(0, 256, (256, 72, 72, 3), dtype=np.uint8)
    found = sprite(lambda part: noise[: part.stop - part.start], 9000, 72)
    assert len(found.webp) <= module.LIMIT
    assert found.side >= module.SMALLEST_SIDE
