"""Decode and check image files, and resize them to the stored size.

Every image becomes (H, W, 3) uint8 RGB, or (H, W, C) if `Reading.bands` says so. It is rotated as its EXIF
orientation says. Transparent parts become white. Values of more than 8 bits are scaled to 8 bits, the same
way in all images (`Reading.value_range`). Only the first frame of an animation is used. simplejpeg decodes
plain JPEG, and Pillow decodes everything else. For a file that both can decode, they give the same bytes.

Memory: decoding and resizing an image of n pixels takes at most 8n bytes here, or 12n if its colours have 16
bits: Pillow's image (4n, or two of them) and the result (3n). Conversions work on strips. At the default
limit of 89,478,485 pixels these are 0.7 and 1.0 GiB. The decoders of WebP, AVIF, HEIC and JPEG 2000 hold
several copies, up to 20n in all (1.7 GiB). tifffile holds all bands of the file at once. Of images above
`LARGE` pixels, the processes of a pool decode one at a time.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple, cast

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from data.errors import DataError
from data.reading import MAX_PIXELS, Reading
from data.sources import Pixels
from data.spread import alone
from data.wide import (
    Form,
    NeedsLibrary,
    Plain,
    Samples,
    form_of,
    full_range,
    samples_of,
    scale,
    sketch,
    strip_rows,
    tiff_form,
    tiff_samples,
)

DECODE_VERSION = 1
"""Part of packed pixels' file name. Raise it whenever `decode` or `resize_square` give different pixels."""

LARGE = 1 << 24
"""The workers of a pool decode images with more pixels one at a time. An image of this size takes 128 MiB."""

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
_OPAQUE = 0.9  # of a TIFF's transparency, at least this share of the values is 0 or the greatest


_DEFAULT = Reading()


def decode(data: bytes | Pixels, reading: Reading = _DEFAULT) -> Pixels:
    """Decode an image to upright pixels.

    Args:
        data: the content of an image file, or pixels as (H, W, C) or grey (H, W) uint8.
        reading: which bands are read, and how values of more than 8 bits are scaled.

    Returns:
        (H, W, 3) uint8 RGB, or (H, W, C) with `reading.bands`.

    Raises:
        DataError: the data is not a complete image in a known format, has more than `reading.max_pixels`
            pixels, lacks the bands that are asked for, or has values that nothing says how to scale. The
            message is the reason.
    """
    return decode_then(data, reading, lambda pixels: pixels)


def decode_then(data: bytes | Pixels, reading: Reading, then: Callable[[Pixels], Pixels]) -> Pixels:
    """Like `then(decode(data, reading))`. If the image is large, other workers wait until `then` is done.

    Args:
        data: as for `decode`.
        reading: as for `decode`.
        then: makes the decoded pixels smaller.

    Raises:
        DataError: see `decode`.
    """
    with ExitStack() as turn:
        if isinstance(data, np.ndarray):
            return then(_checked(data, reading))
        pixels = _decode_jpeg(data, reading, turn)
        return then(_any(data, reading, turn, _pixels_of) if pixels is None else pixels)


class Measure(NamedTuple):
    """What the manifest needs to know of an image.

    Attributes:
        width: of the upright image, px.
        height: of the upright image, px.
        kind: type of the values, such as uint12 or float32; None for 8 unsigned bits.
        quantiles: `data.wide.LEVELS` of the values as (L,) float64; None for 8 unsigned bits.
        kept: what `keep` returned.
    """

    width: int
    height: int
    kind: str | None = None
    quantiles: NDArray[np.float64] | None = None
    kept: Any = None


def measure(
    data: bytes | Pixels, reading: Reading = _DEFAULT, keep: Callable[[Pixels], Any] = lambda pixels: None
) -> Measure:
    """Check that an image can be decoded, and measure it. `reading.value_range` is not used.

    Args:
        data: as for `decode`.
        reading: as for `decode`.
        keep: gets the pixels as `decode` returns them. Wide values are scaled by the image's own range.

    Raises:
        DataError: see `decode`.
    """

    def sized(pixels: Pixels) -> Measure:
        return Measure(pixels.shape[1], pixels.shape[0], kept=keep(pixels))

    with ExitStack() as turn:
        if isinstance(data, np.ndarray):
            return sized(_checked(data, reading))
        pixels = _decode_jpeg(data, reading, turn)
        if pixels is not None:
            return sized(pixels)
        return cast(Measure, _any(data, reading, turn, lambda opened: _measure_of(opened, keep)))


def _checked(pixels: Pixels, reading: Reading) -> Pixels:
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.dtype != np.uint8 or 0 in pixels.shape:
        raise DataError(f"pixels are {pixels.dtype} of shape {pixels.shape}, not uint8 of (height, width, 3)")
    pixels = pixels[..., _chosen(Form(pixels.shape[2]), reading)]
    return np.ascontiguousarray(_channels(pixels))


def _channels(pixels: Pixels) -> Pixels:
    """One band as three equal channels; several bands as they are."""
    return np.repeat(pixels, 3, axis=-1) if pixels.shape[2] == 1 else pixels


def _chosen(form: Form, reading: Reading) -> list[int]:
    """The bands to read, counted from 0.

    Raises:
        DataError: `reading` names none for an image that is neither grey nor RGB, or one that is not there.
    """
    if reading.bands is None:
        if form.colours in (1, 3):
            return list(range(form.colours))
        raise _undecided(f"it has {form.bands} bands", form)
    if max(reading.bands) > form.bands:
        count = "1 band" if form.bands == 1 else f"{form.bands} bands"
        raise DataError(f"it has {count}, but data.bands asks for band {max(reading.bands)}")
    return [band - 1 for band in reading.bands]


def _undecided(problem: str, form: Form) -> DataError:
    few = form.bands < 3
    return DataError(
        f"{problem}; choose {'one' if few else 'three'} with data.bands={'1' if few else '1,2,3'}"
    )


def _check_pixels(pixels: int, reading: Reading, turn: ExitStack, memory: int = 0) -> None:
    """Refuse an image that is too large. If it is large or needs much memory, wait for the turn to decode."""
    if pixels > reading.max_pixels:
        raise DataError(
            f"it has {pixels:,} pixels, more than the {reading.max_pixels:,} that are allowed; "
            "data.max_pixels raises the limit (for predict: --max-pixels)"
        )
    if pixels > LARGE or memory > 8 * LARGE:
        turn.enter_context(alone())


def _decode_jpeg(data: bytes, reading: Reading, turn: ExitStack) -> Pixels | None:
    """Decode a common JPEG with simplejpeg.

    Returns None if Pillow has to decide: the file is no JPEG or damaged, or it is CMYK or in one of Adobe's
    colour spaces, or bands are chosen.
    """
    markers = _jpeg_markers(data) if data.startswith(b"\xff\xd8") else None
    if markers is None or 0xEE in markers or reading.bands is not None:
        return None
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    if space not in ("YCbCr", "Gray") or height * width > reading.max_pixels:
        return None
    try:
        _check_pixels(height * width, reading, turn)
        pixels: Pixels = simplejpeg.decode_jpeg(data)
    except ValueError:
        turn.close()
        return None
    if 0xE1 not in markers:  # no EXIF and no XMP: nothing else can hold an orientation
        return pixels
    with _quiet(reading):
        try:
            with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
                return _upright(pixels, _orientation(image))
        except Exception:  # `_any` gets the same error and says what is wrong
            turn.close()
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


class _Opened(NamedTuple):
    """An image whose pixels are loaded: a Pillow image of 8 bits, or samples.

    Attributes:
        image: the image; None if there are samples.
        samples: the values of a wide image, of one with other bands, or of the bands that are chosen.
        orientation: EXIF orientation that is not undone yet.
        reading: how to read it.
    """

    image: Image.Image | None
    samples: Samples | None
    orientation: int
    reading: Reading


def _any(
    data: bytes, reading: Reading, turn: ExitStack, then: Callable[[_Opened], Any], heif: bool = False
) -> Any:
    """Open a file in any format and call `then` with its loaded pixels."""
    if not data:
        raise DataError("it is empty")
    with _quiet(reading):
        try:
            with Image.open(io.BytesIO(data), formats=_formats(heif)) as image:
                _check_pixels(image.width * image.height, reading, turn)
                return then(_load(image, data, reading))
        except DataError:
            raise
        except UnidentifiedImageError:
            form = tiff_form(data) if data[:2] in (b"II", b"MM") else None
            if form is not None:
                return _reasoned(lambda: then(_unopened(data, form, reading, turn)))
            if _is_heic(data) and not heif and _heif_installed():
                return _any(data, reading, turn, then, heif=True)
            raise _unknown(data) from None
        except Image.DecompressionBombError:
            raise DataError("its header claims too many pixels (a decompression bomb)") from None
        except Exception as error:  # decoders of damaged files raise nearly anything
            raise _damaged(error) from None


def _reasoned(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except DataError:
        raise
    except Exception as error:
        raise _damaged(error) from None


def _damaged(error: Exception) -> DataError:
    reason = str(error) or type(error).__name__
    what = "it is cut off" if "truncated" in reason.lower() else "it can't be decoded"
    return DataError(f"{what} ({reason})")


def _load(opened: ImageFile.ImageFile, data: bytes, reading: Reading) -> _Opened:
    image: Image.Image = opened
    form = form_of(opened, data)
    if form is not None and (form.wide or form.colours not in (1, 3)):
        _chosen(form, reading)  # refuse it before it is loaded
        samples = samples_of(opened, data, form)
        if opened.format == "TIFF" and form.alpha and reading.bands is None:
            _check_alpha(samples)
        tiff = opened.format == "TIFF"  # Pillow turns a TIFF when it loads it
        return _Opened(None, samples, samples.orientation if tiff else _orientation(image), reading)
    image.load()
    # Read the orientation after loading: loading a TIFF already turns it, and a PNG may have its EXIF at the
    # end.
    if reading.bands is None:
        if opened.format == "TIFF" and form is not None and form.alpha:
            _check_alpha(Plain(image.getchannel("A"), form))
        return _Opened(image, None, _orientation(image), reading)
    orientation = _orientation(image)
    if image.mode not in ("L", "LA", "RGB", "RGBA"):
        image = image.convert("L" if image.mode == "1" else "RGBA" if image.has_transparency_data else "RGB")
    bands = image.getbands()
    return _Opened(None, Plain(image, Form(len(bands), bands[-1] == "A")), orientation, reading)


def _check_alpha(samples: Samples) -> None:
    """Check that the last band of a TIFF looks like the transparency that the file declares.

    tifffile and GDAL declare the fourth band to be transparency unless they are told otherwise, so infrared
    comes with this declaration. In real transparency, nearly all values are 0 or the greatest.

    Raises:
        DataError: it looks like an image.
    """
    form = samples.form
    low, high = full_range(form.kind) or (0.0, 1.0)
    extreme = sum(
        int(np.count_nonzero((strip[..., -1] == low) | (strip[..., -1] == high)))
        for _, strip in samples.strips()
    )
    if extreme < _OPAQUE * samples.height * samples.width:
        raise _undecided(
            f"it has {form.bands} bands, and the last is declared transparency but looks like an image", form
        )


def _unopened(data: bytes, form: Form, reading: Reading, turn: ExitStack) -> _Opened:
    """A TIFF of a form that Pillow does not know, such as one of five bands."""
    _chosen(form, reading)
    samples = tiff_samples(data, form, lambda pixels, memory: _check_pixels(pixels, reading, turn, memory))
    if form.alpha and reading.bands is None:
        _check_alpha(samples)
    return _Opened(None, samples, samples.orientation, reading)


@cache
def _formats(heif: bool = False) -> tuple[str, ...]:
    """The formats of `FORMATS` that the installed Pillow supports."""
    Image.init()
    if heif:
        import pillow_heif

        pillow_heif.register_heif_opener()
        return ("HEIF",)
    return tuple(name for name in FORMATS if name in Image.OPEN)


_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def _is_heic(data: bytes) -> bool:
    return data[4:8] == b"ftyp" and data[8:12] in _HEIC


@cache
def _heif_installed() -> bool:
    try:
        import pillow_heif  # noqa: F401
    except ImportError:
        return False
    return True


def _unknown(data: bytes) -> DataError:
    if data.startswith(b"version https://git-lfs"):
        return DataError("it is a Git LFS pointer, not the image; run `git lfs pull`")
    if _is_heic(data) and not _heif_installed():
        return NeedsLibrary("it is HEIC, as iPhones write it; install pillow-heif to read it")
    if _is_heic(data):
        return DataError("it is HEIC, but damaged or of a kind that pillow-heif can't read")
    return DataError(NO_IMAGE)


@contextmanager
def _quiet(reading: Reading) -> Iterator[None]:
    """Silence Pillow's warnings about odd metadata and large sizes. `max_pixels` already limits the size.

    Use it only around calls of Pillow.
    """
    limit = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            Image.MAX_IMAGE_PIXELS = max(MAX_PIXELS, reading.max_pixels)  # Pillow refuses twice as many
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


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


def _pixels_of(opened: _Opened) -> Pixels:
    if opened.samples is not None:
        pixels = _eight_bits(opened.samples, opened.reading)
        opened.samples.close()  # turning needs the memory
    else:
        assert opened.image is not None
        pixels = _rgb(opened.image)
        opened.image.close()
    return _upright(pixels, opened.orientation)


def _measure_of(opened: _Opened, keep: Callable[[Pixels], Any]) -> Measure:
    kind, quantiles = None, None
    if opened.samples is not None and opened.samples.form.wide:
        form = opened.samples.form
        kind, quantiles = form.kind, sketch(opened.samples, _chosen(form, opened.reading))
        low, high = float(quantiles[0]), float(quantiles[-1])
        own = (low, high if high > low else low + 1)
        opened = opened._replace(reading=replace(opened.reading, value_range=own))
    pixels = _pixels_of(opened)
    return Measure(pixels.shape[1], pixels.shape[0], kind, quantiles, keep(pixels))


def _rgb(image: Image.Image) -> Pixels:
    """(H, W, 3) uint8 of a Pillow image of 8 bits, with transparent parts in white."""
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    step = strip_rows(image.width)
    for top in range(0, image.height, step):
        bottom = min(top + step, image.height)
        strip = image if step >= image.height else image.crop((0, top, image.width, bottom))
        if strip.has_transparency_data:
            strip = _on_white(strip.convert("RGBA"))
        pixels[top:bottom] = np.asarray(strip.convert("RGB"))
    return pixels


def _on_white(layer: Image.Image) -> Image.Image:
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)


def _eight_bits(samples: Samples, reading: Reading) -> Pixels:
    """(H, W, C) uint8 of the chosen bands. Declared alpha puts colours on white unless bands are chosen."""
    form = samples.form
    bands = _chosen(form, reading)
    low, high = _range(form, reading)
    pixels = np.empty((samples.height, samples.width, reading.channels), np.uint8)
    for top, values in samples.strips():
        chosen = values[..., bands]
        if chosen.dtype.kind == "f" and not np.isfinite(chosen).all():
            raise DataError("it has pixels that are not finite numbers")
        strip = _channels(scale(chosen, low, high) if form.wide else chosen)
        if form.alpha and reading.bands is None:
            alpha = scale(values[..., -1:], *(full_range(form.kind) or (0.0, 1.0)))
            if form.premultiplied:
                strip = np.minimum(strip.astype(np.uint16) + (255 - alpha), 255).astype(np.uint8)
            else:
                layer = Image.fromarray(np.concatenate([strip, alpha], -1))
                strip = np.asarray(_on_white(layer).convert("RGB"))
        pixels[top : top + len(strip)] = strip
    return pixels


def _range(form: Form, reading: Reading) -> tuple[float, float]:
    if not form.wide:
        return 0.0, 255.0
    found = reading.value_range or full_range(form.kind)
    if found is None:
        raise DataError(f"it has {form.kind} values of no known range; set data.value_range=[low, high]")
    return found


def content_sha256(data: bytes | Pixels) -> str:
    """Hash an image's content: the sha256 of the file's bytes, or of the shape and bytes of pixels."""
    if isinstance(data, bytes):
        return hashlib.sha256(data).hexdigest()
    digest = hashlib.sha256(repr(data.shape).encode())
    digest.update(np.ascontiguousarray(data).data)
    return digest.hexdigest()


def resize_square(pixels: Pixels, size: int, interpolation: str = "bicubic") -> Pixels:
    """Crop the central square and resize it to (size, size, C) uint8. Antialiased when shrinking.

    Args:
        pixels: (H, W, C) uint8.
        size: side of the square, px.
        interpolation: one of Pillow's filters, in lower case.
    """
    height, width, _ = pixels.shape
    if height == width == size:
        return pixels
    side = min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    return _resized(pixels, (size, size), (left, top, left + side, top + side), interpolation)


def resize_shorter(pixels: Pixels, size: int, window: int, interpolation: str) -> Pixels:
    """Resize the shorter side to `size` px, then crop the central square, as torchvision and timm do.

    The longer side is rounded down. torchvision crops the central `window` px at once. Here a second crop
    takes them from the square, so the square begins where both crops together give the same pixels.

    Args:
        pixels: (H, W, C) uint8.
        size: side of the square, px.
        window: side of the crop that the network sees, px; at most `size`.
        interpolation: one of Pillow's filters, in lower case.

    Returns:
        (size, size, C) uint8.
    """
    height, width, _ = pixels.shape
    short = min(height, width)
    extent = int(size * width / short), int(size * height / short)
    if extent != (width, height):
        pixels = _resized(pixels, extent, interpolation=interpolation)
    inner = round((size - window) / 2)
    left, top = (round((side - window) / 2) - inner for side in extent)
    return pixels[top : top + size, left : left + size]


def resize_squash(pixels: Pixels, size: int, interpolation: str) -> Pixels:
    """Resize the whole image to (size, size, C) uint8, whatever its aspect ratio."""
    height, width, _ = pixels.shape
    if height == width == size:
        return pixels
    return _resized(pixels, (size, size), interpolation=interpolation)


def _resized(
    pixels: Pixels,
    extent: tuple[int, int],
    box: tuple[float, float, float, float] | None = None,
    interpolation: str = "bicubic",
) -> Pixels:
    """Resize to an extent (width, height). Three channels are resized together, others one by one."""
    way = Image.Resampling[interpolation.upper()]
    if pixels.shape[2] == 3:
        return np.asarray(Image.fromarray(pixels).resize(extent, way, box))
    bands = (np.ascontiguousarray(pixels[..., band]) for band in range(pixels.shape[2]))
    return np.stack(
        [np.asarray(Image.fromarray(band).resize(extent, way, box)) for band in bands],
        axis=-1,
    )


def extent_within(width: int, height: int, side: int) -> tuple[int, int]:
    """The (width, height) of an image whose longer side is resized to `side` px. No side is below 1 px."""
    scale = side / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def resize_within(pixels: Pixels, side: int) -> Pixels:
    """Resize the whole image to fit a square, and place it at the top left of that square.

    Its longer side becomes `side` px. The rest of the square is black.

    Returns:
        (side, side, C) uint8.
    """
    height, width, channels = pixels.shape
    extent = extent_within(width, height, side)
    square = np.zeros((side, side, channels), np.uint8)
    square[: extent[1], : extent[0]] = _resized(pixels, extent)
    return square
