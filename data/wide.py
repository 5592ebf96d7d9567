"""Values of more than 8 bits and images of more bands: what a file stores, and one scale for a whole set.

Pillow reduces 16-bit colour to 8 bits, drops bands it has no name for, and takes a fourth band for
transparency. This module reads such files without losing anything. It gives rows on demand, so that a large
image is never held in memory as float64.
"""

from __future__ import annotations

import io
import struct
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import ceil, floor, log10, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from data.errors import DataError

_TAILS = (0, *(0.25 / 1.5**i for i in range(19, -1, -1)))  # from 0.0001 on
LEVELS = np.array([*_TAILS, 0.5, *(1 - level for level in reversed(_TAILS))])
"""The quantiles that are kept of each wide image: dense at both ends, where the scale is decided."""

TAIL = 0.001
"""Share of the values that may lie beyond the scale at each end. So a few hot pixels don't squeeze the other
values into few grey levels. In ordinary photographs, nothing visible is clipped."""

_SAMPLE = 1 << 17  # values per image from which quantiles are computed; at a tail of 0.001 these are 131
_STRIP = 1 << 20  # pixels that are converted at a time


class NeedsLibrary(DataError):
    """The image can be read only with a library that is not installed."""


@dataclass(frozen=True)
class Form:
    """How an image file stores its pixels.

    Attributes:
        bands: number of channels as stored, with alpha.
        alpha: whether the last band is declared to be transparency.
        premultiplied: whether the colours are already multiplied by alpha.
        dtype: type of the values, such as uint16.
        bits: bits per value that the file declares: 12 of a 12-bit image, although its dtype is uint16.
        separate: whether each band is stored by itself (TIFF's planar configuration 2).
    """

    bands: int
    alpha: bool = False
    dtype: str = "uint8"
    bits: int = 8
    premultiplied: bool = False
    separate: bool = False

    @property
    def wide(self) -> bool:
        """Whether 8 unsigned bits can't hold the values."""
        return self.dtype != "uint8"

    @property
    def kind(self) -> str:
        """The type of the values for people, such as uint12, int16 or float32."""
        return f"{self.dtype.rstrip('0123456789')}{self.bits}"

    @property
    def colours(self) -> int:
        """Number of bands that are not declared alpha."""
        return self.bands - self.alpha


def full_range(kind: str) -> tuple[float, float] | None:
    """The least and the greatest value of a `Form.kind`; None for floats."""
    bits = int(kind.lstrip("abcdefghijklmnopqrstuvwxyz"))
    if kind.startswith("uint"):
        return 0.0, float(2**bits - 1)
    return (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if kind.startswith("int") else None


# What the file says


def form_of(image: ImageFile.ImageFile, data: bytes) -> Form | None:
    """The form of an opened image that is not loaded yet.

    Returns None for images that Pillow reads without losing anything, such as 8-bit RGB, palettes and CMYK.
    """
    if image.format == "TIFF":
        return tiff_form(data)
    raw = image.tile[0].args if image.format == "PNG" and image.tile else None
    if isinstance(raw, str) and raw.endswith(";16B") and not image.mode.startswith("I"):
        name = raw.removesuffix(";16B")
        return Form(len(name), name.endswith("A"), "uint16", 16)
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        return Form(1, dtype="uint16", bits=16)  # Pillow scales PGM of any maximum to 16 bits
    if image.mode in ("I", "F"):
        return Form(1, dtype="int32" if image.mode == "I" else "float32", bits=32)
    return None


_BITS, _PHOTOMETRIC, _SAMPLES, _PLANAR, _EXTRA, _FORMAT = 258, 262, 277, 284, 338, 339  # TIFF tags
_COLOURS = {0: 1, 1: 1, 2: 3}  # photometric interpretation -> colours, of grey and RGB
_ALPHA = (1, 2, 999)  # values of ExtraSamples that mean alpha; 999 is Corel Draw's


def tiff_form(data: bytes) -> Form | None:
    """The form of a TIFF. None if it is not grey or RGB, or if its header makes no sense."""
    try:
        tags = {tag: values for tag, (values, _) in _tiff_tags(data).items()}
    except (struct.error, KeyError):
        return None
    colours = _COLOURS.get(tags.get(_PHOTOMETRIC, (0,))[0])
    bits = max(tags.get(_BITS, (1,)))
    bands = tags.get(_SAMPLES, (1,))[0]
    if colours is None or bands < colours or bits > 64:
        return None
    extra = tags.get(_EXTRA, ())
    name = {1: "uint", 2: "int", 3: "float"}.get(tags.get(_FORMAT, (1,))[0])
    if name is None:
        return None
    size = next(size for size in (8, 16, 32, 64) if bits <= size)
    alpha = bands == colours + 1 and extra[:1] != () and extra[0] in _ALPHA
    separate = bands > 1 and tags.get(_PLANAR, (1,))[0] == 2
    return Form(bands, alpha, f"{name}{size}", max(bits, 8), alpha and extra[0] == 1, separate)


def _tiff_tags(data: bytes) -> dict[int, tuple[tuple[int, ...], int]]:
    """The whole-number tags of a TIFF's first image: tag -> (values, where they are in the file).

    Raises:
        struct.error: the file is cut off.
        KeyError: it is not a TIFF.
    """
    order = {b"II": "<", b"MM": ">"}[data[:2]]
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    (start,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, start)
    start, step, room = (start + 8, 20, 8) if big else (start + 2, 12, 4)
    found: dict[int, tuple[tuple[int, ...], int]] = {}
    for at in range(start, start + step * min(count, 4096), step):
        tag, type_, number = struct.unpack_from(order + ("HHQ" if big else "HHI"), data, at)
        letter = {3: "H", 4: "I"}.get(type_)
        if letter is None or number > 4096:
            continue
        form = f"{order}{number}{letter}"
        where = at + step - room
        if struct.calcsize(form) > room:
            (where,) = struct.unpack_from(order + ("Q" if big else "I"), data, where)
        found[tag] = struct.unpack_from(form, data, where), where
    return found


def _as_alpha(data: bytes) -> bytes:
    """Declare the one extra band of a TIFF to be ordinary alpha, so that Pillow keeps all values."""
    values, where = _tiff_tags(data).get(_EXTRA, ((), 0))
    if values[:1] not in ((0,), (1,)):
        return data
    order = "<" if data[:2] == b"II" else ">"
    return data[:where] + struct.pack(order + "H", 2) + data[where + 2 :]


# Rows of values


class Samples(ABC):
    """The values of an image as they are stored, row by row.

    Attributes:
        form: bands and type.
        height: number of rows.
        width: number of columns.
        orientation: the EXIF orientation of these rows that is still to be undone, 1 to 8. Only TIFFs set it.
    """

    form: Form
    height: int
    width: int
    orientation: int = 1

    @abstractmethod
    def rows(self, top: int, bottom: int) -> NDArray[Any]:
        """The rows from `top` to before `bottom`, (rows, width, bands), in the dtype of the form."""

    @abstractmethod
    def close(self) -> None:
        """Free the memory of the values."""

    def strips(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """All rows in strips of about a million pixels, each with the number of its first row."""
        step = strip_rows(self.width)
        for top in range(0, self.height, step):
            yield top, self.rows(top, min(top + step, self.height))


def strip_rows(width: int) -> int:
    """How many rows are converted at a time."""
    return max(1, _STRIP // max(1, width))


class Plain(Samples):
    """A loaded Pillow image whose values are those of the file."""

    def __init__(self, image: Image.Image, form: Form) -> None:
        self.form, self._image = form, image
        self.width, self.height = image.size

    def rows(self, top: int, bottom: int) -> NDArray[Any]:
        """The rows from `top` to before `bottom`."""
        values = np.asarray(self._image.crop((0, top, self.width, bottom)))
        return values.reshape(bottom - top, self.width, -1).astype(self.form.dtype, copy=False)

    def close(self) -> None:
        """Free the image."""
        self._image.close()


class _Halves(Samples):
    """A 16-bit colour image that Pillow has decoded twice: once to its high bytes, once to its low bytes."""

    def __init__(self, high: Plain, low: Plain, form: Form) -> None:
        self.form, self._high, self._low = form, high, low
        self.width, self.height = high.width, high.height

    def rows(self, top: int, bottom: int) -> NDArray[Any]:
        """The rows from `top` to before `bottom`."""
        high, low = (half.rows(top, bottom).astype(np.uint16) for half in (self._high, self._low))
        return (high << 8) | low

    def close(self) -> None:
        """Free both images."""
        self._high.close()
        self._low.close()


class _Pairs(Samples):
    """16-bit grey with alpha that Pillow has decoded as if it had four bands of 8 bits."""

    def __init__(self, quads: Plain, form: Form) -> None:
        self.form, self._quads = form, quads
        self.width, self.height = quads.width, quads.height

    def rows(self, top: int, bottom: int) -> NDArray[Any]:
        """The rows from `top` to before `bottom`."""
        quads = self._quads.rows(top, bottom).astype(np.uint16)
        return (quads[..., ::2] << 8) | quads[..., 1::2]

    def close(self) -> None:
        """Free the image."""
        self._quads.close()


class Loaded(Samples):
    """Values that are in memory, (height, width, bands)."""

    def __init__(self, values: NDArray[Any], form: Form, orientation: int) -> None:
        self.form, self._values, self.orientation = form, values, orientation
        self.height, self.width = values.shape[:2]

    def rows(self, top: int, bottom: int) -> NDArray[Any]:
        """The rows from `top` to before `bottom`."""
        return self._values[top:bottom]

    def close(self) -> None:
        """Free the values."""
        self._values = self._values[:0]


def samples_of(image: ImageFile.ImageFile, data: bytes, form: Form) -> Samples:
    """Load an image's values.

    Args:
        image: the opened image; it is loaded here.
        data: the content of its file.
        form: from `form_of`.

    Raises:
        NeedsLibrary: only tifffile can read this form.
    """
    again = io.BytesIO(data)
    if image.format == "TIFF" and form.bands > 1:
        extra = form.bands - (3 if form.bands >= 3 else 1)
        small = form.dtype == "uint8" or (form.dtype == "uint16" and form.bits == 16 and form.bands >= 3)
        if form.separate or extra > 1 or not small:
            return tiff_samples(data, form)
        again = io.BytesIO(_as_alpha(data))
        image = Image.open(again, formats=("TIFF",))
    if not form.wide or form.bands == 1:
        image.load()
        return Plain(image, form)
    eight = Form(form.bands)
    if form.bands == 2:
        image.tile = [tile._replace(args="RGBA") for tile in image.tile]
        image.load()
        return _Pairs(Plain(image, Form(4)), form)
    low = Image.open(io.BytesIO(again.getvalue()), formats=(str(image.format),))
    low.tile = [tile._replace(args=_low_bytes(tile.args)) for tile in low.tile]
    low.load()
    image.load()
    return _Halves(Plain(image, eight), Plain(low, eight), form)


_OTHER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}


def _low_bytes(args: Any) -> Any:
    """A decoder's arguments for the other order of bytes. Pillow then keeps the low byte of each value."""
    if isinstance(args, str):
        return args[:-1] + _OTHER[args[-1]]
    return (_low_bytes(args[0]), *args[1:])


def tiff_samples(data: bytes, form: Form, check: Callable[[int, int], None] | None = None) -> Samples:
    """The values of a TIFF that Pillow can't read, with tifffile. They are held in memory as they are stored.

    Args:
        data: the content of the file.
        form: from `tiff_form`.
        check: called with the number of pixels and of bytes before the image is loaded.

    Raises:
        NeedsLibrary: tifffile is not installed, or lacks a codec.
        DataError: the file's layout is not an image of one plane.
    """
    try:
        import tifffile
    except ImportError:
        raise NeedsLibrary(
            f"it is a TIFF of {form.bands} {'band' if form.bands == 1 else 'bands'} ({form.kind}); "
            "install tifffile to read it"
        ) from None
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page: Any = file.pages[0]
        if check is not None:
            check(page.imagelength * page.imagewidth, page.nbytes)
        try:
            values: NDArray[Any] = page.asarray()
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            raise NeedsLibrary(
                "it is a TIFF in a compression that tifffile reads only with imagecodecs; install imagecodecs"
            ) from None
        axes, turned = page.axes, page.tags.get(274)
    if axes == "SYX":
        values = np.moveaxis(values, 0, -1)
    elif axes == "YX":
        values = values[..., None]
    if values.ndim != 3 or axes not in ("YX", "YXS", "SYX"):
        raise DataError(f"it is a TIFF with axes {axes}, not an image of one plane")
    orientation = int(turned.value) if turned is not None and turned.value in range(1, 9) else 1
    found = replace(form, bands=values.shape[2], dtype=values.dtype.name)
    return Loaded(values, found, orientation)


# The scale of a set


def scale(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Map `low` to 0 and `high` to 255, rounded to the nearest. Values outside become 0 or 255."""
    if values.dtype.itemsize <= 2 and values.dtype.kind in "iu":
        least = int(np.iinfo(values.dtype).min)
        return _table(values.dtype.str, low, high)[values.astype(np.int32) - least]
    return _linear(values.astype(np.float64), low, high)


def _linear(values: NDArray[np.float64], low: float, high: float) -> NDArray[np.uint8]:
    return np.rint(np.clip((values - low) * (255 / (high - low)), 0, 255)).astype(np.uint8)


@cache
def _table(dtype: str, low: float, high: float) -> NDArray[np.uint8]:
    kind = np.iinfo(np.dtype(dtype))
    return _linear(np.arange(kind.min, kind.max + 1, dtype=np.float64), low, high)


def sketch(samples: Samples, bands: Sequence[int]) -> NDArray[np.float64]:
    """The quantiles `LEVELS` of an image's values; the least and the greatest value are exact.

    The other quantiles are those of about 131,072 values on a regular grid.

    Args:
        samples: the image.
        bands: the bands to look at, counted from 0.

    Raises:
        DataError: a value is not a finite number.
    """
    step = max(1, ceil(sqrt(samples.height * samples.width * len(bands) / _SAMPLE)))
    parts: list[NDArray[Any]] = []
    low, high = np.inf, -np.inf
    for top, strip in samples.strips():
        values = strip[..., list(bands)]
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise DataError("it has pixels that are not finite numbers")
        low, high = min(low, float(values.min())), max(high, float(values.max()))
        parts.append(values[-top % step :: step, ::step].reshape(-1))
    found: NDArray[np.float64] = np.quantile(
        np.concatenate(parts).astype(np.float64), LEVELS, method="inverted_cdf"
    )
    found[0], found[-1] = low, high
    return found


def _share(sketches: NDArray[np.float64], value: float, *, below: bool = False) -> float:
    """The share of values up to `value` (or strictly below it), each image counting the same."""
    knots = (sketches < value if below else sketches <= value).sum(1)
    left, right = np.maximum(knots - 1, 0), np.minimum(knots, len(LEVELS) - 1)
    rows = np.arange(len(sketches))
    gap = sketches[rows, right] - sketches[rows, left]
    part = np.where(gap > 0, (value - sketches[rows, left]) / np.where(gap > 0, gap, 1), 0.0)
    share = LEVELS[left] + np.clip(part, 0, 1) * (LEVELS[right] - LEVELS[left])
    return float(np.where(knots == 0, 0.0, np.where(knots == len(LEVELS), 1.0, share)).mean())


def robust_range(sketches: NDArray[np.float64], full: tuple[float, float] | None) -> tuple[float, float]:
    """The scale of a set: all but a `TAIL` of the values at each end, rounded outwards.

    Every image counts the same, however large it is. The ends are rounded to multiples of a hundredth of
    the largest power of ten that is not above the width. So a few new images rarely change them.

    Args:
        sketches: (N, len(LEVELS)), from `sketch`.
        full: the range of the images' type, which the result does not leave; None for floats.

    Returns:
        low and high, with low < high.
    """
    low, high = _quantile(sketches, TAIL), _quantile(sketches, 1 - TAIL)
    width = high - low
    if width > 0:
        digits = 2 - floor(log10(width))
        step = 10.0**-digits
        # Rounding first keeps 0.3 / 0.1 = 2.9999999999999996 from becoming 0.2.
        edges = floor(round(low / step, 6)), ceil(round(high / step, 6))
        low, high = (round(edge * step, max(0, digits)) for edge in edges)
    if full is not None:
        low, high = max(low, full[0]), min(high, full[1])
    return (low, high) if high > low else (low, low + 1.0)


def _quantile(sketches: NDArray[np.float64], level: float) -> float:
    """The least value up to which a share of `level` lies, by bisection."""
    low, high = float(sketches.min()), float(sketches.max())
    if _share(sketches, low) >= level:
        return low
    for _ in range(64):
        middle = (low + high) / 2
        low, high = (low, middle) if _share(sketches, middle) >= level else (middle, high)
    return high


def clipped(sketches: NDArray[np.float64], low: float, high: float) -> tuple[float, int]:
    """How many values lie beyond a scale.

    Returns:
        The share of the values (0 to 1), estimated from the sketches, and the number of images with such
        values, which is exact.
    """
    share = _share(sketches, low, below=True) + 1 - _share(sketches, high)
    images = int(((sketches[:, 0] < low) | (sketches[:, -1] > high)).sum())
    return min(max(share, 0.0), 1.0), images
