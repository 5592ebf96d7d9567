"""Make folders in VOC's layout: red squares and blue discs on grey noise, some marked as difficult."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

COLOURS = {"disc": (30, 30, 220), "square": (220, 30, 30)}
NUMBER = {"disc": 1, "square": 2}


def draw_shapes(folder: Path, names: list[str], width: int = 80, height: int = 60) -> None:
    """Write the photographs `names` with two or three shapes each, and the shapes' boxes and masks."""
    for part in ("JPEGImages", "Annotations", "SegmentationClass"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for position, name in enumerate(names):
        g = np.random.default_rng(position)
        image = Image.fromarray(g.integers(100, 140, (height, width, 3), dtype=np.uint8))
        mask = Image.new("L", (width, height))
        objects = ""
        for kind, left in zip(("disc", "square", "disc"), (4, 30, 56), strict=True):
            side, top = int(g.integers(16, 22)), int(g.integers(2, height - 24))
            corners = (left, top, left + side - 1, top + side - 1)  # inclusive, from 0
            for canvas, fill in (
                (ImageDraw.Draw(image), COLOURS[kind]),
                (ImageDraw.Draw(mask), NUMBER[kind]),
            ):
                (canvas.ellipse if kind == "disc" else canvas.rectangle)(corners, fill=fill)
            low = "".join(
                f"<{key}>{value + 1}</{key}>"
                for key, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
            )
            objects += (
                f"<object><name>{kind}</name><difficult>{int(left == 56 and position % 3 == 0)}</difficult>"
                f"<bndbox>{low}</bndbox></object>"
            )
        mask.paste(255, (0, 0, width, 1))  # a void row
        image.save(folder / "JPEGImages" / f"{name}.png")
        mask.putpalette(
            [value for colour in range(256) for value in (colour, 0, 255 - colour)]
        )  # like VOC's masks
        mask.save(folder / "SegmentationClass" / f"{name}.png")
        (folder / "Annotations" / f"{name}.xml").write_text(f"<annotation>{objects}</annotation>")


def divide(folder: Path, **sets: list[str]) -> None:
    """Write the lists in ImageSets/Main."""
    main = folder / "ImageSets" / "Main"
    main.mkdir(parents=True, exist_ok=True)
    for name, members in sets.items():
        (main / f"{name}.txt").write_text("\n".join(members) + "\n")
