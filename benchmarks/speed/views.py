"""Random views: two views of each image of a batch on one core, compared with lightly's transforms in PIL.

Each measurement runs in a separate process. At 32 and 96 px, ours starts from packed pixels and lightly from
PIL images in memory. At 224 px, both start from JPEG files of 400 px. The distributions of views are the
same, except for the blur's size and how it treats the border.
"""

from __future__ import annotations

import io
import time
from argparse import Namespace
from collections.abc import Callable

import numpy as np

from benchmarks.record import Comparison, apart, rounds
from data.processes import KEPT_MEMORY

SECONDS = 4.0
"""Each contestant works for at least this long per round."""
SIZES = {32: (8.0, 0.5, 0.0), 96: (3.0, 1.0, 0.5), 224: (2.0, 1.0, 0.5)}
"""Side, px -> (goal, strength of colour jitter, probability of blur)."""
BATCH = 128


def measure(options: Namespace) -> list[Comparison]:
    """Compare two views at three sizes, and multi-crop (2 large and 6 small crops) at two sizes."""
    found = [_compare(size, False, options.rounds) for size in SIZES]
    return found + [_compare(size, True, options.rounds) for size in (32, 224)]


def photographs(side: int, n: int) -> list[np.ndarray]:
    """Cut n squares, (side, side, 3) uint8, out of scikit-learn's two sample photographs."""
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
    """The squares of `photographs` as JPEG files of quality 90."""
    from PIL import Image

    files = []
    for square in photographs(side, n):
        file = io.BytesIO()
        Image.fromarray(square).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return files


def ours(size: int, many: bool) -> float:
    """Our images per second for two views of each, or for multi-crop."""
    import torch

    from data.decode import decode, resize_square
    from data.draws import Draws
    from data.preprocessing import stored_size
    from models.augment import multi_crop, two_views
    from models.configs.shared import Views
    from models.configs.swav import SwAV

    torch.set_num_threads(1)
    _, strength, blur = SIZES[size]
    config = Views(jitter=strength, blur=blur)
    crops = SwAV(crop_min=0.14, small_crops=6, jitter=strength, blur=blur)
    index = np.arange(BATCH)
    files = jpegs(400, BATCH) if size == 224 else None
    pixels = None if files else torch.from_numpy(np.stack(photographs(stored_size(size), BATCH)))

    def batch(step: int) -> None:
        images = pixels
        if files is not None:
            images = torch.from_numpy(np.stack([resize_square(decode(f), stored_size(size)) for f in files]))
        assert images is not None
        draws = Draws(0, "benchmark", step, index)
        if many:
            multi_crop(images, draws, crops, crops, size)
        else:
            two_views(images, draws, config, size)

    return _rate(batch)


def lightly(size: int, many: bool) -> float:
    """The images per second of lightly for the same views. It transforms one image at a time."""
    import torch
    from lightly.transforms import SimCLRTransform, SwaVTransform
    from PIL import Image

    from data.preprocessing import stored_size

    torch.set_num_threads(1)
    _, strength, blur = SIZES[size]
    transform = (
        SwaVTransform(
            crop_sizes=(size, _small(size)), crop_counts=(2, 6), cj_strength=strength, gaussian_blur=blur
        )
        if many
        else SimCLRTransform(input_size=size, cj_strength=strength, gaussian_blur=blur)
    )
    files = jpegs(400, BATCH) if size == 224 else None
    pictures = None if files else [Image.fromarray(p) for p in photographs(stored_size(size), BATCH)]

    def batch(step: int) -> None:
        # Like ImageFolder, this opens and converts each image again in every epoch.
        chosen = [Image.open(io.BytesIO(f)).convert("RGB") for f in files] if files else pictures
        assert chosen is not None
        made = [transform(picture) for picture in chosen]
        for views in zip(*made, strict=True):
            torch.stack(views)

    return _rate(batch)


def _small(size: int) -> int:
    from models.configs.swav import SwAV

    return SwAV(small_crops=6).small_side(size)


def _rate(batch: Callable[[int], None]) -> float:
    batch(0)  # warm up
    began, step = time.perf_counter(), 1
    while (spent := time.perf_counter() - began) < SECONDS:
        batch(step)
        step += 1
    return BATCH * (step - 1) / spent


def _compare(size: int, many: bool, n: int) -> Comparison:
    goal, strength, blur = SIZES[size]
    values = rounds(
        {"ours": apart(ours, size, many, **KEPT_MEMORY), "lightly": apart(lightly, size, many)}, n
    )
    small = _small(size)
    start = "JPEG files of 400 px" if size == 224 else "decoded images in memory"
    if many:
        what, title = "multi_crop", f"Multi-crop, two at {size} px and six at {small} px per image"
        of = f"SwaVTransform(crop_sizes=({size}, {small}), crop_counts=(2, 6), "
    else:
        what, title = "two_views", f"Two views per image at {size} px"
        of = f"SimCLRTransform(input_size={size}, "
    return Comparison(
        name=f"multi-crop-{size}" if many else f"views-{size}",
        title=f"{title}, from {start}, one core",
        unit="images/s",
        better="higher",
        values=values,
        settings={
            "ours": f"{what}, batches of {BATCH}, jitter {strength}, blur {blur}; "
            "memory is kept between batches, as in stages",
            "lightly": f"{of}cj_strength={strength}, gaussian_blur={blur}) on PIL images",
        },
        goal=None if many else goal,
    )
