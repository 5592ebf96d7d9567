"""Make image files for the tests of modules that read them."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


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


def png16(values):
    """A 16-bit PNG of (H, W, C) uint16 values: grey, LA, RGB or RGBA. Pillow can only write grey."""
    height, width, channels = values.shape
    rows = values.astype(">u2").reshape(height, -1).view(np.uint8).astype(int)
    before = np.pad(rows, ((0, 0), (2 * channels, 0)))[:, : rows.shape[1]]
    filtered = np.pad(((rows - before) % 256).astype(np.uint8), ((0, 0), (1, 0)), constant_values=1)  # Sub

    def chunk(name, content):
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    content = zlib.compress(filtered.tobytes())
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND", b"")


def four_bands(values, **options):
    """A TIFF of (H, W, 4) uint8 values whose fourth band is not declared to be anything."""
    return encoded(Image.fromarray(values, "RGBX"), "TIFF", **options)
