"""The suggested kind of pictures, on images that are drawn here: each set has one property of a kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from data.kind import FEWEST, signs, suggest

N, SIDE = 120, 48
Pixels = NDArray[np.uint8]


def drawn(
    draw: Callable[[ImageDraw.ImageDraw, np.random.Generator], None], ground: Any, n: int = N
) -> Pixels:
    """n images of SIDE px, each drawn on a ground of one colour."""
    rng, out = np.random.default_rng(0), []
    for _ in range(n):
        image = Image.new("RGB", (4 * SIDE, 4 * SIDE), ground(rng) if callable(ground) else ground)
        draw(ImageDraw.Draw(image), rng)
        out.append(np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX)))
    return np.stack(out)


def strokes(width: int) -> Callable[[ImageDraw.ImageDraw, np.random.Generator], None]:
    def draw(on: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
        for _ in range(3):
            on.line([tuple(p) for p in rng.integers(30, 4 * SIDE - 30, (2, 2)).tolist()], "black", width)

    return draw


def noise(rng: np.random.Generator, scale: float, channels: int) -> Pixels:
    """A texture without special direction."""
    edge = 8  # the filter changes the border
    coarse = rng.integers(0, 256, (SIDE + 2 * edge, SIDE + 2 * edge, channels), np.uint8)
    image = Image.fromarray(coarse.squeeze()).filter(ImageFilter.GaussianBlur(scale))
    x = np.asarray(image, np.float64)[edge:-edge, edge:-edge].reshape(SIDE, SIDE, channels)
    return np.clip(128 + (x - x.mean()) * 40 / x.std(), 0, 255).astype(np.uint8)


def landscapes(n: int = N) -> Pixels:
    """Blue above, green below, and a house at a random place."""

    def draw(on: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
        horizon = int(rng.integers(60, 120))
        on.rectangle([0, horizon, 4 * SIDE, 4 * SIDE], (40, int(rng.integers(90, 160)), 30))
        middle, size = int(rng.integers(4 * SIDE)), int(rng.integers(10, 35))
        colour = tuple(rng.integers(0, 255, 3).tolist())
        on.rectangle([middle - size, horizon - 2 * size, middle + size, horizon + 10], colour)

    return drawn(draw, lambda rng: (90, 130, int(rng.integers(180, 255))), n)


def arrows() -> Pixels:
    """Yellow arrows to the left, on blue."""

    def draw(on: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
        x, y, s = (int(v) for v in rng.integers([40, 60, 30], [70, 120, 60]))
        on.polygon([(x, y), (x + s, y - s), (x + s, y + s)], (230, 210, 40))
        on.rectangle([x + s, y - 8, x + 2 * s, y + 8], (230, 210, 40))

    return drawn(draw, lambda rng: (20, int(rng.integers(20, 90)), 160))


def cells(lamp: tuple[int, int, int] = (255, 255, 255)) -> Pixels:
    """Purple cells with a darker nucleus. The lamp colours everything."""

    def draw(on: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
        x, y = rng.integers(60, 130, 2).tolist()
        r = int(rng.integers(30, 55))
        on.ellipse([x - r, y - r, x + r, y + r], (200, 140, 210))
        r //= 2
        on.ellipse([x - r, y - r, x + r, y + r], (110, 40, 140))

    return (drawn(draw, (250, 248, 250)) * (np.array(lamp) / 255)).astype(np.uint8)


def digits() -> Pixels:
    from sklearn.datasets import load_digits

    levels = (load_digits().images[:300] * 15.9).astype(np.uint8)
    return np.repeat(np.repeat(np.repeat(levels, 2, 1), 2, 2)[..., None], 3, 3)


def textures(channels: int) -> Pixels:
    rng = np.random.default_rng(1)
    x = np.stack([noise(rng, 2.0, channels) for _ in range(N)])
    return x if channels == 3 else np.repeat(x, 3, axis=3)


def turned_at_random(x: Pixels) -> Pixels:
    rng = np.random.default_rng(2)
    return np.stack([np.rot90(image, rng.integers(4)) for image in x])


SETS: dict[str, tuple[Callable[[], Pixels], str]] = {
    "wide strokes on white": (lambda: drawn(strokes(14), "white"), "symbols"),
    "white on black": (lambda: 255 - drawn(strokes(14), "white"), "symbols"),
    "digits": (digits, "symbols"),
    "arrows": (arrows, "symbols"),
    "thin strokes on white": (lambda: drawn(strokes(3), "white"), "drawings"),
    "grey textures": (lambda: textures(1), "grey"),
    "coloured textures": (lambda: textures(3), "satellite"),
    "landscapes": (landscapes, "photographs"),
    "stained cells": (cells, "microscopy"),
    "stained cells in yellow light": (lambda: cells((255, 240, 150)), "microscopy"),
}


@pytest.mark.parametrize("name", SETS)
def test_the_kind_follows_from_the_property(name: str) -> None:
    make, kind = SETS[name]
    pixels = make()
    found = suggest(pixels)
    assert found.kind == kind, (found, signs(pixels))
    assert found.because


def test_images_that_come_with_their_mirror_images_have_no_sides() -> None:
    x = arrows()
    both = np.concatenate([x, x[:, :, ::-1]], axis=1).reshape(2 * len(x), SIDE, SIDE, 3)
    assert signs(x).mirrored > 0.95
    assert abs(signs(both).mirrored - 0.5) < 0.1
    assert suggest(both).kind == "photographs"


def test_turning_each_image_at_random_hides_all_directions() -> None:
    assert signs(landscapes()).turned > 0.95
    x = turned_at_random(landscapes(300))
    assert abs(signs(x).turned - 0.5) < 3 * 0.5 / np.sqrt(len(x))
    assert suggest(x).kind in ("satellite", "microscopy")


def test_a_few_images_are_never_sure_and_never_turned() -> None:
    for make, _ in SETS.values():
        found = suggest(make()[: FEWEST - 1])
        assert not found.sure
        assert found.kind != "satellite"
    assert suggest(landscapes(1)).kind == "photographs"


def test_bands_without_colours_are_grey() -> None:
    rng = np.random.default_rng(0)
    assert suggest(np.stack([noise(rng, 2.0, 4) for _ in range(30)])).kind == "grey"


def test_size_and_number_of_images_hardly_matter() -> None:
    large = np.repeat(np.repeat(landscapes(), 3, 1), 3, 2)
    assert suggest(large).kind == "photographs"
    assert suggest(landscapes(40)).kind == "photographs"
    assert suggest(np.zeros((1, 8, 8, 3), np.uint8)).kind == "grey"
