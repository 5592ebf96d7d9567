"""scikit-learn's handwritten digits: 1,797 grey images of 8x8 pixels, embedded, so nothing is downloaded.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998 (its test part).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from importlib.metadata import version

import numpy as np

from data.sources import Entry, Listing, Pixels, Source
from data.types import Split

_TEST = 360
_CLASSES = tuple("0123456789")


class DigitsSource(Source):
    """1,437 train and 360 test images, stratified; the split never changes. No unlabelled images: train serves them."""

    parallel = False

    def __init__(self, spec: str, role: Split) -> None:
        super().__init__(spec)
        self.role = role

    @cached_property
    def _digits(self) -> tuple[Pixels, Pixels]:
        from sklearn.datasets import load_digits

        digits = load_digits()
        grey = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # stored as 0..16
        return np.repeat(grey[..., None], 3, axis=-1), digits.target.astype(np.uint8)

    def stamp(self) -> str | None:
        """The images come with the package."""
        return f"scikit-learn {version('scikit-learn')}"

    def _list(self) -> Listing:
        from sklearn.model_selection import train_test_split

        images, target = self._digits
        train, test = train_test_split(np.arange(len(target)), test_size=_TEST, stratify=target, random_state=0)
        rows = test if self.role == "test" else train
        entries = [Entry(f"digits/{row:04d}", int(target[row]), images[row].nbytes, 0, int(row)) for row in rows]
        return Listing(entries, _CLASSES)

    def read(self, entries: Sequence[Entry]) -> Iterator[bytes | Pixels]:
        """(8, 8, 3) uint8 for each, grey levels 0..16 scaled to 0..255."""
        images, _ = self._digits
        for entry in entries:
            yield images[entry.place]
