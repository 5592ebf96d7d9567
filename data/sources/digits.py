"""scikit-learn's handwritten digits: 1,797 grey images of 8x8 pixels. They are part of the package.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998 (its test part).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from importlib.metadata import version

import numpy as np

from data.sources import Entry, Listing, Pixels, Source

_TEST = 360
_CLASSES = tuple("0123456789")


class DigitsSource(Source):
    """1,437 train and 360 test images. The split is stratified and never changes.

    There are no unlabelled images, so the role "unlabelled" gives the train images.
    """

    parallel = False

    @cached_property
    def _digits(self) -> tuple[Pixels, Pixels]:
        from sklearn.datasets import load_digits

        digits = load_digits()
        grey = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # stored as 0..16
        return np.repeat(grey[..., None], 3, axis=-1), digits.target.astype(np.uint8)

    def stamp(self) -> str | None:
        """The version of scikit-learn, because the images come with that package."""
        return f"scikit-learn {version('scikit-learn')}"

    def _list(self) -> Listing:
        from sklearn.model_selection import train_test_split

        images, target = self._digits
        train, test = train_test_split(
            np.arange(len(target)), test_size=_TEST, stratify=target, random_state=0
        )
        rows = test if self.role == "test" else train
        entries = [
            Entry(f"digits/{row:04d}", int(target[row]), images[row].nbytes, 0, int(row)) for row in rows
        ]
        return Listing(entries, _CLASSES)

    def read(self, entries: Sequence[Entry]) -> Iterator[bytes | Pixels]:
        """(8, 8, 3) uint8 per image, with the grey levels 0..16 scaled to 0..255."""
        images, _ = self._digits
        for entry in entries:
            yield images[entry.place]
