"""Decode and check image files, and resize them to the stored size.

Every image becomes (H, W, 3) uint8 RGB. It is rotated as its EXIF orientation says. Transparent parts become
white. 16-bit grey is scaled to 8 bits. Only the first frame of an animation is used. simplejpeg decodes plain
JPEG, and Pillow decodes everything else. For a file that both can decode, they give the same bytes.
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
"""Part of packed pixels' file name. Raise it whenever `decode` or `resize_square` give different pixels."""

MAX_PIXELS = 89_478_485
"""Images with more pixels are refused before decoding. This is 256 MiB as RGB. Pillow warns from here on."""

NO_IMAGE = "it is no image, or damaged, or of a format that isn't supported"
"""The reason of a file that nothing recognises as an image."""

FORMATS = (
    "JPEG",
    "PNG",
    "GIF",
    "WEBP",
    "BMP",
    "DIB",
    "TIFF",
    "PPM",
    "TGA",
    "AVIF",
    "JPEG2000",
    "ICO",
    "PCX",
    "QOI",
)
"""The Pillow formats that are tried. EPS, PDF and WMF are left out because they run other programs."""

_ORIENTATION = 0x0112  # EXIF tag


def decode(data: bytes | Pixels) -> Pixels:
    """Decode an image to upright RGB pixels.

    Args:
        data: the content of an image file, or pixels as (H, W, 3) or grey (H, W) uint8.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        DataError: the data is not a complete image in a known format, or has more than `MAX_PIXELS` pixels.
            The message is the reason.
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
    """Decode a common JPEG with simplejpeg.

    Returns None if Pillow has to decide: the file is damaged, or it is CMYK or in one of Adobe's colour
    spaces.
    """
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
    if 0xE1 not in markers:  # no EXIF and no XMP: nothing else can hold an orientation
        return pixels
    with _quiet():
        try:
            with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
                return _upright(pixels, _orientation(image))
        except Exception:  # `_decode_any` gets the same error and says what is wrong
            return None


def _jpeg_markers(data: bytes) -> set[int] | None:
    """The second bytes of the markers before the image data, or None if the markers make no sense."""
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
                # Read the orientation after loading: loading a TIFF already turns it, and a PNG may have
                # its EXIF at the end.
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
    """The formats of `FORMATS` that the installed Pillow supports."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _too_large(pixels: int) -> str:
    return f"it has {pixels:,} pixels, more than the {MAX_PIXELS:,} that are allowed"


def _unknown(data: bytes) -> str:
    if data.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, not the image; run `git lfs pull`"
    return NO_IMAGE


class _quiet(warnings.catch_warnings):
    """Silence Pillow's warnings about odd metadata and large sizes. `MAX_PIXELS` already limits the size.

    Use it only around calls of Pillow.
    """

    def __enter__(self) -> None:
        super().__enter__()
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8. It is 1 if none is given or if it can't be read."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # broken EXIF raises nearly anything, but does not affect the pixels
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """Undo an EXIF orientation (TIFF 6.0, tag 274): transpose for 5 to 8, then flip."""
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
    """Scale grey values of more than 8 bits to (H, W) uint8.

    Integers within 0..65535 are scaled as 16 bits. Other values have no fixed range, so their minimum becomes
    0 and their maximum 255.
    """
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise DataError("it has pixels that are not finite numbers")
    low, high = float(values.min()), float(values.max())
    if image.mode.startswith("I") and low >= 0 and high <= 65535:
        low, high = 0.0, 65535.0
    return np.rint((values - low) * (255 / max(high - low, 1e-300))).astype(np.uint8)


def content_sha256(data: bytes | Pixels) -> str:
    """Hash an image's content: the sha256 of the file's bytes, or of the shape and bytes of pixels."""
    if isinstance(data, bytes):
        return hashlib.sha256(data).hexdigest()
    digest = hashlib.sha256(repr(data.shape).encode())
    digest.update(np.ascontiguousarray(data).data)
    return digest.hexdigest()


def stored_size(image_size: int) -> int:
    """Side of the stored square in pixels, for networks whose input is `image_size` pixels wide.

    From 64 px on, evaluation crops the central 87.5 % (224 of 256). Smaller images are used whole.
    """
    return image_size if image_size < 64 else round(image_size * 8 / 7)


def resize_square(pixels: Pixels, size: int) -> Pixels:
    """Crop the central square and resize it to (size, size, 3) uint8. Bicubic, antialiased when shrinking."""
    height, width, _ = pixels.shape
    if height == width == size:
        return pixels
    side = min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    image = Image.fromarray(pixels)
    return np.asarray(
        image.resize((size, size), Image.Resampling.BICUBIC, (left, top, left + side, top + side))
    )


def extent_within(width: int, height: int, side: int) -> tuple[int, int]:
    """The (width, height) of an image whose longer side is resized to `side` px. No side is below 1 px."""
    scale = side / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def resize_within(pixels: Pixels, side: int) -> Pixels:
    """Resize the whole image to fit a square, and place it at the top left of that square.

    Its longer side becomes `side` px. The rest of the square is black.

    Returns:
        (side, side, 3) uint8.
    """
    height, width, _ = pixels.shape
    extent = extent_within(width, height, side)
    square = np.zeros((side, side, 3), np.uint8)
    resized = Image.fromarray(pixels).resize(extent, Image.Resampling.BICUBIC)
    square[: extent[1], : extent[0]] = np.asarray(resized)
    return square
