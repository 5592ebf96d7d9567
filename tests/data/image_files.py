"""Make image files for the tests of modules that read them."""

import io

import numpy as np


def encoded(image, format="PNG", **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def photo(height=23, width=37, seed=0):
    """An image that is smooth enough for JPEG and different in each corner and channel."""
    y, x = np.mgrid[0:height, 0:width]
    phase = np.random.default_rng(seed).uniform(0, 3, 3)
    return np.stack([127 + 120 * np.sin(x / 9 + y / (5 + i) + phase[i]) for i in range(3)], axis=-1).astype(
        np.uint8
    )
