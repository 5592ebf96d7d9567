"""One scale for a whole run: which values of wide images become 0 and 255, and what the user should know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from data.errors import DataError
from data.reading import Reading
from data.wide import LEVELS, clipped, full_range, robust_range
from data.wording import counted

_NARROW = 0.1  # a set that uses less than this share of its type's range gets a note


class Values(NamedTuple):
    """The values of one image.

    Attributes:
        kind: type of the values, such as uint16; None for 8 unsigned bits.
        quantiles: `data.wide.LEVELS` of the values as little-endian float64; empty for 8 unsigned bits.
    """

    kind: str | None
    quantiles: bytes


@dataclass(frozen=True)
class Settled:
    """How a set's images are read.

    Attributes:
        recorded: keys for the manifest's meta.json. Empty if all images have 8 bits and no bands are chosen.
        reading: decides the pixels.
        notes: sentences for the user.
    """

    recorded: dict[str, Any]
    reading: Reading
    notes: list[str]


def settle(learned: Sequence[Values], tested: Sequence[Values], reading: Reading) -> Settled:
    """Choose the scale of a set, unless `reading` has one.

    It depends on train and unlabelled images only. If none of these is wide, wide test images are scaled by
    the range of their type.

    Args:
        learned: the values of the train and unlabelled images.
        tested: the values of the test images.
        reading: bands, and the scale if it is given.

    Raises:
        DataError: only test images are wide, their type has no range, and no scale is given.
    """
    wide = [values for values in learned if values.kind is not None]
    every = wide + [values for values in tested if values.kind is not None]
    if not every:
        settled = Reading(None, reading.bands, reading.max_pixels)
        return Settled(_recorded(settled), settled, [])
    low, high = reading.value_range or _range(wide, every)
    settled = Reading((low, high), reading.bands, reading.max_pixels)
    kinds = sorted({str(values.kind) for values in every})
    total = len(learned) + len(tested)
    share, images = clipped(_quantiles(every), low, high)
    notes = [
        f"{len(every)} of {total} images have wide values ({', '.join(kinds)}); "
        f"in all of them {low:g} becomes 0 and {high:g} becomes 255"
    ]
    full = _full(every)
    if full is not None and high - low < _NARROW * (full[1] - full[0]):
        notes.append(
            f"wide images use less than a tenth of their range: {low:g} to {high:g} "
            f"of {full[0]:g} to {full[1]:g}"
        )
    if images:
        notes.append(
            f"about {share:.2%} of the values of wide images, in {counted(images, 'image', 'images')}, are "
            f"outside of {low:g} to {high:g} and are clipped; data.value_range=[low, high] sets another range"
        )
    if len(every) < total:
        one = "image has 8 bits per value; it is read as it is"
        many = "images have 8 bits per value; they are read as they are"
        notes.append(counted(total - len(every), one, many))
    recorded = {**_recorded(settled), "clipped": {"share": round(share, 6), "images": images}}
    return Settled(recorded, settled, notes)


def _recorded(reading: Reading) -> dict[str, Any]:
    recorded = reading.recorded()
    return recorded and {**recorded, "channels": reading.channels}


def _range(wide: list[Values], every: list[Values]) -> tuple[float, float]:
    if wide:
        return robust_range(_quantiles(wide), _full(wide))
    full = _full(every)
    if full is None:
        kinds = ", ".join(sorted({str(values.kind) for values in every}))
        raise DataError(
            f"test images have {kinds} values, but no training image has more than 8 bits, so nothing says "
            "how to scale them; set data.value_range=[low, high]"
        )
    return full


def _full(wide: list[Values]) -> tuple[float, float] | None:
    """The range of all types together; None if there are floats."""
    ranges = [full_range(str(kind)) for kind in {values.kind for values in wide}]
    known = [each for each in ranges if each is not None]
    if len(known) < len(ranges):
        return None
    return min(low for low, _ in known), max(high for _, high in known)


def _quantiles(wide: list[Values]) -> np.ndarray[Any, np.dtype[np.float64]]:
    joined = b"".join(values.quantiles for values in wide)
    return np.frombuffer(joined, "<f8").reshape(len(wide), len(LEVELS))
