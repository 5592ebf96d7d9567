"""How pixels become 8 bits and channels: a value that the manifest, the pixel cache and a model share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAX_PIXELS = 89_478_485
"""Default of `data.max_pixels`: 256 MiB as RGB. Pillow warns from here on."""


@dataclass(frozen=True)
class Reading:
    """How images are read. With the default, images of 8 bits and 1 or 3 channels are read as they are.

    Attributes:
        value_range: (low, high) that becomes 0 to 255 in images with more than 8 bits per value, or with
            signed or float values. None: the full range of the integer type; float images are refused.
        bands: the bands to read, counted from 1 as they are stored. One band becomes three equal channels.
            None: the image's colours; an image with other bands is refused.
        max_pixels: images with more pixels are refused before they are decoded.
    """

    value_range: tuple[float, float] | None = None
    bands: tuple[int, ...] | None = None
    max_pixels: int = MAX_PIXELS

    @property
    def channels(self) -> int:
        """C, the number of channels of the decoded pixels: 3, unless `bands` has 2 or more than 3."""
        return 3 if self.bands is None or len(self.bands) == 1 else len(self.bands)

    def recorded(self) -> dict[str, Any]:
        """What decides the pixels, as JSON values: only the keys that differ from the default."""
        found: dict[str, Any] = {}
        if self.value_range is not None:
            found["value_range"] = list(self.value_range)
        if self.bands is not None:
            found["bands"] = list(self.bands)
        return found


KEYS = ("value_range", "bands")
"""The keys of `Reading.recorded` in a manifest's meta.json and in model.json."""


def recorded_in(values: Mapping[str, Any], max_pixels: int = MAX_PIXELS) -> Reading:
    """The reading that a manifest's meta.json or a model.json records."""
    value_range, bands = (values.get(key) for key in KEYS)
    return Reading(
        None if value_range is None else (float(value_range[0]), float(value_range[1])),
        None if bands is None else tuple(map(int, bands)),
        max_pixels,
    )
