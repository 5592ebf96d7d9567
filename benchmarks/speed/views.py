"""Random views: from images to a batch of two views each, on one core, against lightly's transforms in PIL.

Ours at 32 and 96 px begins with packed pixels, lightly's with PIL images in memory; at 224 px both begin with JPEG files
of 400 px. The distributions are the same, but for the border of the blur and its size.
"""

from __future__ import annotations

import io
import time
from argparse import Namespace
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.record import Comparison, rounds

SECONDS = 4.0
"""Each contestant works at least so long a round."""
SIZES = {32: (8.0, 0.5, 0.0), 96: (3.0, 1.0, 0.5), 224: (2.0, 1.0, 0.5)}
"""Side, px -> (goal, strength of colour jitter, probability of blur)."""
BATCH = 128


def measure(options: Namespace) -> list[Comparison]:
    """Two views at three sizes, then multi-crop (2 large, 6 small) at two."""
    import torch

    torch.set_num_threads(1)
    found = [_two(size, options.rounds) for size in SIZES]
    return found + [_many(size, options.rounds) for size in (32, 224)]


def photographs(side: int, n: int) -> list[np.ndarray]:
    """N squares (side, side, 3) uint8 out of scikit-learn's two sample photographs."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    rng, found = np.random.default_rng(0), []
    whole = load_sample_images().images
    for i in range(n):
        picture = whole[i % len(whole)]
        height, width, _ = picture.shape
        part = min(height, max(side, 200))
        top, left = rng.integers(0, height - part + 1), rng.integers(0, width - part + 1)
        square = Image.fromarray(picture[top : top + part, left : left + part])
        found.append(np.asarray(square.resize((side, side), Image.Resampling.BICUBIC)))
    return found


def jpegs(side: int, n: int) -> list[bytes]:
    """N such squares as JPEG files of quality 90."""
    from PIL import Image

    files = []
    for square in photographs(side, n):
        file = io.BytesIO()
        Image.fromarray(square).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return files


def timed(batch: Callable[[int], int]) -> Callable[[], float]:
    """Images a second of `batch(step)`, which returns how many it did; the first batch is not counted."""

    def run() -> float:
        batch(0)
        began, done, step = time.perf_counter(), 0, 1
        while (spent := time.perf_counter() - began) < SECONDS:
            done += batch(step)
            step += 1
        return done / spent

    return run


def _ours(size: int, views: Callable[[Any, Any], Any]) -> Callable[[], float]:
    import torch

    from data.draws import Draws
    from data.images import decode, resize_square, stored_size

    index = np.arange(BATCH)
    files = jpegs(400, BATCH) if size == 224 else None
    pixels = None if files else torch.from_numpy(np.stack(photographs(stored_size(size), BATCH)))

    def batch(step: int) -> int:
        images = pixels
        if files is not None:
            images = torch.from_numpy(np.stack([resize_square(decode(f), stored_size(size)) for f in files]))
        views(images, Draws(0, "benchmark", step, index))
        return BATCH

    return timed(batch)


def _lightly(size: int, transform: Callable[[Any], Any]) -> Callable[[], float]:
    import torch
    from PIL import Image

    from data.images import stored_size

    files = jpegs(400, BATCH) if size == 224 else None
    pictures = None if files else [Image.fromarray(p) for p in photographs(stored_size(size), BATCH)]

    def batch(step: int) -> int:
        # As ImageFolder does it: opened and converted for every view of an epoch.
        chosen = [Image.open(io.BytesIO(f)).convert("RGB") for f in files] if files else pictures
        assert chosen is not None
        made = [transform(picture) for picture in chosen]
        for views in zip(*made, strict=True):
            torch.stack(views)
        return BATCH

    return timed(batch)


def _two(size: int, n: int) -> Comparison:
    from lightly.transforms import SimCLRTransform

    from models.augment import two_views
    from models.methods.configs.shared import Views

    goal, strength, blur = SIZES[size]
    config = Views(jitter=strength, blur=blur)
    transform = SimCLRTransform(input_size=size, cj_strength=strength, gaussian_blur=blur)
    values = rounds(
        {
            "ours": _ours(size, lambda images, draws: two_views(images, draws, config, size)),
            "lightly": _lightly(size, transform),
        },
        n,
    )
    start = "JPEG files of 400 px" if size == 224 else "decoded images in memory"
    return Comparison(
        name=f"views-{size}",
        title=f"Two views an image at {size} px, from {start}, one core",
        unit="images/s",
        better="higher",
        values=values,
        settings={
            "ours": f"two_views, batches of {BATCH}, jitter {strength}, blur {blur}",
            "lightly": f"SimCLRTransform(input_size={size}, cj_strength={strength}, gaussian_blur={blur}) on PIL images",
        },
        goal=goal,
    )


def _many(size: int, n: int) -> Comparison:
    from lightly.transforms import SwaVTransform

    from models.augment import multi_crop, small_side
    from models.methods.configs import SwAV

    _, strength, blur = SIZES[size]
    config = SwAV(crop_min=0.14, small_crops=6, jitter=strength, blur=blur)
    small = small_side(config, size)
    transform = SwaVTransform(crop_sizes=(size, small), crop_counts=(2, 6), cj_strength=strength, gaussian_blur=blur)
    values = rounds(
        {
            "ours": _ours(size, lambda images, draws: multi_crop(images, draws, config, config, size)),
            "lightly": _lightly(size, transform),
        },
        n,
    )
    return Comparison(
        name=f"multi-crop-{size}",
        title=f"Multi-crop, two at {size} px and six at {small} px an image, one core",
        unit="images/s",
        better="higher",
        values=values,
        settings={
            "ours": f"multi_crop, batches of {BATCH}, jitter {strength}, blur {blur}",
            "lightly": f"SwaVTransform(crop_sizes=({size}, {small}), crop_counts=(2, 6), cj_strength={strength}, gaussian_blur={blur})",
        },
    )
