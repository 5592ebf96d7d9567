"""Image files decoded and checked, and resized to what is stored.

Every image becomes (H, W, 3) uint8 RGB, whatever it was: rotated as its EXIF orientation says, transparent parts on
white, 16-bit grey scaled to 8 bit, the first frame of an animation. Plain JPEG is decoded by simplejpeg, the rest by
Pillow; where both can, they give the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from functools import cache

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from data.errors import DataError
from data.sources import Pixels

DECODE_VERSION = 1
"""Part of the name of packed pixels: raised whenever `decode` or `resize_square` give other pixels."""

MAX_PIXELS = 89_478_485
"""Images above are refused before they are decoded: 256 MiB as RGB, and where Pillow begins to warn."""

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "DIB", "TIFF", "PPM", "TGA", "AVIF", "JPEG2000", "ICO", "PCX", "QOI")
"""Pillow's formats that are tried. Not EPS, PDF and WMF, which run other programs on what is in the file."""

_ORIENTATION = 0x0112  # EXIF tag


def decode(data: bytes | Pixels) -> Pixels:
    """The image's pixels as they are meant to be seen.

    Args:
        data: a file's content, or pixels, (H, W, 3) or grey (H, W) uint8.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        DataError: it isn't a whole image in a known format, or has more than `MAX_PIXELS`; the message is the reason.
    """
    if isinstance(data, np.ndarray):
        return _checked(data)
    if not data:
        raise DataError("it is empty")
    pixels = _decode_jpeg(data) if data.startswith(b"\xff\xd8") else None
    return _decode_any(data) if pixels is None else pixels


def _checked(pixels: Pixels) -> Pixels:
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=-1)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or 0 in pixels.shape:
        raise DataError(f"pixels are {pixels.dtype} of shape {pixels.shape}, not uint8 of (height, width, 3)")
    return np.ascontiguousarray(pixels)


def _decode_jpeg(data: bytes) -> Pixels | None:
    """The common JPEG by simplejpeg; None where Pillow has to decide: damaged, CMYK, Adobe's colour spaces."""
    markers = _jpeg_markers(data)
    if markers is None or 0xEE in markers:
        return None
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
        if space not in ("YCbCr", "Gray") or height * width > MAX_PIXELS:
            return None
        pixels: Pixels = simplejpeg.decode_jpeg(data)
    except ValueError:
        return None
    if 0xE1 not in markers:  # neither EXIF nor XMP, where alone an orientation can stand
        return pixels
    with _quiet():
        try:
            with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
                return _upright(pixels, _orientation(image))
        except Exception:  # as in `_decode_any`, which will say what is wrong
            return None


def _jpeg_markers(data: bytes) -> set[int] | None:
    """Second bytes of the markers before the image data; None if these don't make sense."""
    markers: set[int] = set()
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # padding
            at += 1
            continue
        if marker == 0xDA:
            return markers
        markers.add(marker)
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def _decode_any(data: bytes) -> Pixels:
    with _quiet():
        try:
            with Image.open(io.BytesIO(data), formats=_formats()) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise DataError(_too_large(image.width * image.height))
                image.load()
                # After loading: TIFF turns the image itself then, and PNG may have its EXIF at the end.
                return _upright(_rgb(image), _orientation(image))
        except DataError:
            raise
        except UnidentifiedImageError:
            raise DataError(_unknown(data)) from None
        except Image.DecompressionBombError:
            raise DataError("its header claims too many pixels (a decompression bomb)") from None
        except Exception as error:  # decoders of damaged files raise nearly anything
            reason = str(error) or type(error).__name__
            what = "it is cut off" if "truncated" in reason.lower() else "it can't be decoded"
            raise DataError(f"{what} ({reason})") from None


@cache
def _formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this Pillow was built with."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _too_large(pixels: int) -> str:
    return f"it has {pixels:,} pixels, more than the {MAX_PIXELS:,} that are allowed"


def _unknown(data: bytes) -> str:
    if data.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, not the image; run `git lfs pull`"
    return "it is no image, or damaged, or of a format that isn't supported"


class _quiet(warnings.catch_warnings):
    """Around calls of Pillow alone: its remarks on odd metadata, and on sizes that `MAX_PIXELS` decides about."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 if it isn't given, or not readable."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # broken EXIF raises nearly anything, and the pixels are none the worse for it
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """Undoes an EXIF orientation (TIFF 6.0, tag 274): a transposition from 5 on, then flips."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _rgb(image: Image.Image) -> Pixels:
    if image.mode.startswith(("I", "F")):
        grey = _eight_bit(image)
        return np.repeat(grey[..., None], 3, axis=-1)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return np.asarray(image.convert("RGB"))


def _eight_bit(image: Image.Image) -> NDArray[np.uint8]:
    """Grey of more than 8 bit. 0..65535 as 16 bit; anything wider has no range of its own, so from its min to max."""
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise DataError("it has pixels that are not finite numbers")
    low, high = float(values.min()), float(values.max())
    if image.mode.startswith("I") and low >= 0 and high <= 65535:
        low, high = 0.0, 65535.0
    return np.rint((values - low) * (255 / max(high - low, 1e-300))).astype(np.uint8)


def content_sha256(data: bytes | Pixels) -> str:
    """What names an image's content: sha256 of its file's bytes, or of the shape and bytes of its pixels."""
    if isinstance(data, bytes):
        return hashlib.sha256(data).hexdigest()
    digest = hashlib.sha256(repr(data.shape).encode())
    digest.update(np.ascontiguousarray(data).data)
    return digest.hexdigest()


def stored_size(image_size: int) -> int:
    """Side of the stored square in pixels, for networks that see `image_size`.

    From 64 px on the crop for evaluation is the central 87.5 % (224 of 256); smaller images are used whole.
    """
    return image_size if image_size < 64 else round(image_size * 8 / 7)


def resize_square(pixels: Pixels, size: int) -> Pixels:
    """The central square, (size, size, 3) uint8: bicubic, and antialiased where it shrinks."""
    height, width, _ = pixels.shape
    if height == width == size:
        return pixels
    side = min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    image = Image.fromarray(pixels)
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, (left, top, left + side, top + side)))


def extent_within(width: int, height: int, side: int) -> tuple[int, int]:
    """(width, height) of an image once its longer side is `side` px; the shorter has 1 px or more."""
    scale = side / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def resize_within(pixels: Pixels, side: int) -> Pixels:
    """The whole image, its longer side `side` px, at the top left of a black square, (side, side, 3) uint8."""
    height, width, _ = pixels.shape
    extent = extent_within(width, height, side)
    square = np.zeros((side, side, 3), np.uint8)
    resized = Image.fromarray(pixels).resize(extent, Image.Resampling.BICUBIC)
    square[: extent[1], : extent[0]] = np.asarray(resized)
    return square
