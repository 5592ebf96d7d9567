"""Where images come from: one `Source` for each kind of place, opened from one line of configuration.

    digits                    scikit-learn's handwritten digits, embedded
    folder:PATH               image files, in class sub-folders or not
    parquet:PATH              Parquet file, folder or glob in the Hugging Face layout
    torchvision:NAME          CIFAR10, STL10, ImageNet ...
    voc:PATH                  photographs with boxes and masks, in PASCAL VOC's layout

PATH may be any fsspec URL. A source lists and reads; it decodes nothing (that is `data.decode`) and knows nothing of
the manifest.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.errors import ConfigError, DataError
from data.types import Split

SOURCES: dict[str, str] = {
    "digits": "scikit-learn's 1,797 handwritten digits of 8x8 pixels, embedded",
    "folder:PATH": "image files, in class sub-folders or not",
    "parquet:PATH": "a Parquet file, folder or glob: image (bytes, path), optional label",
    "torchvision:NAME": "CIFAR10, STL10, ImageNet ...: a local copy, or downloaded; NAME?root=FOLDER",
    "voc:PATH": "PASCAL VOC's layout: JPEGImages, Annotations, SegmentationClass, ImageSets; or Penn-Fudan's",
}
"""What `open_source` takes, with a line on each."""

UNKNOWN_TIME = -1
"""`Entry.mtime` where the place doesn't tell: such an entry is read anew each time."""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Entry:
    """One image, listed but not read.

    Attributes:
        uri: relative to the source and unique in it; says nothing about where the source lies.
        label: position in the source's `classes`, or None.
        size: bytes of the file that the image lies in (of the whole Parquet file, for a row of one).
        mtime: nanoseconds since 1970 of that file, or `UNKNOWN_TIME`; with `size` it tells an unchanged image.
        place: the source's own way to find it. Reading in the order of `place` is sequential.
    """

    uri: str
    label: int | None
    size: int
    mtime: int
    place: Any


@dataclass(frozen=True)
class Listing:
    """All a source knows without reading an image. `remarks` are what its user should be told."""

    entries: list[Entry]
    classes: tuple[str, ...] | None
    remarks: tuple[str, ...] = ()


class Source(ABC):
    """Images in one place. Listed once, on first need; pickled without what it found, for worker processes.

    Attributes:
        spec: what it was opened from.
        random_access: whether reading in any order costs the same.
        parallel: whether worker processes may each hold one (not if it keeps all pixels in memory).
    """

    random_access: bool = True
    parallel: bool = True

    def __init__(self, spec: str) -> None:
        self.spec = spec

    @abstractmethod
    def _list(self) -> Listing:
        """Lists all images, in any order.

        Raises:
            DataError: the place is missing, empty or of another layout.
        """

    @abstractmethod
    def read(self, entries: Sequence[Entry]) -> Iterator[bytes | Pixels]:
        """An image's file content, or (H, W, 3) uint8 pixels where there is no file, one per entry and in their order.

        Raises:
            OSError: this entry could not be read. The others may be.
            DataError: what holds the images is damaged.
        """

    def batches(self, entries: Sequence[Entry], size: int) -> Iterator[list[Entry]]:
        """Splits entries into lists of about `size` that are each cheap to read, in the order of `place`."""
        ordered = sorted(entries, key=lambda entry: entry.place)
        for start in range(0, len(ordered), size):
            yield ordered[start : start + size]

    def find(self, uris: Sequence[str]) -> list[Entry]:
        """The entries of these uris, in their order.

        Raises:
            DataError: one isn't there any more.
        """
        known = {entry.uri: entry for entry in self.entries()}
        missing = [uri for uri in uris if uri not in known]
        if missing:
            raise DataError(
                f"{self.spec}: {len(missing)} images of the manifest are gone, first {missing[0]!r}; "
                "run again so that the source is listed anew"
            )
        return [known[uri] for uri in uris]

    def annotations(self, entries: Sequence[Entry]) -> list[str] | None:
        """A hash of what is said about each image besides its label, one per entry; None in a source that says nothing."""
        return None

    def stamp(self) -> str | None:
        """What changes whenever the images may have, told without listing them; None where only listing tells.

        Raises:
            DataError: the place is missing or empty.
        """
        return None

    @cached_property
    def _listing(self) -> Listing:
        listing = self._list()
        if not listing.entries:
            raise DataError(f"{self.spec}: no images there; check the path, and that the images are not hidden files")
        listing.entries.sort(key=lambda entry: entry.uri)
        return listing

    def entries(self) -> list[Entry]:
        """All images, sorted by uri."""
        return self._listing.entries

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names that labels are positions in; None without labels."""
        return self._listing.classes

    @property
    def remarks(self) -> tuple[str, ...]:
        """Sentences that the user should read, such as why there are no labels."""
        return self._listing.remarks

    def __getstate__(self) -> dict[str, Any]:
        found_once = {name for kind in type(self).__mro__ for name, value in vars(kind).items() if _is_cached(value)}
        return {name: value for name, value in self.__dict__.items() if name not in found_once}


def _is_cached(value: object) -> bool:
    return isinstance(value, cached_property)


def open_source(spec: str, role: Split) -> Source:
    """Opens a source. Nothing is listed or read yet.

    Args:
        spec: a kind of source and, where it has one, its place: `digits`, `folder:PATH` ...
        role: a source with splits of its own serves the one that suits: "test" its test (or validation) split,
            "unlabelled" its unlabelled split if it has one and else its train split. The others serve all they have.

    Raises:
        ConfigError: no such kind, or no place given.
        DataError: the place can't be reached.
    """
    kind, _, place = spec.partition(":")
    if kind == "digits" and not place:
        from data.sources.digits import DigitsSource

        return DigitsSource(spec, role)
    if kind in ("folder", "parquet", "torchvision", "voc"):
        if not place:
            raise ConfigError(f"source {spec!r}: nothing after {kind}:; write {kind}:PLACE")
        if kind == "folder":
            from data.sources.folder import FolderSource

            return FolderSource(spec, place)
        if kind == "parquet":
            from data.sources.parquet import ParquetSource

            return ParquetSource(spec, place)
        if kind == "voc":
            from data.sources.voc import VocSource

            return VocSource(spec, place, role)
        from data.sources.torchvision import TorchvisionSource

        return TorchvisionSource(spec, place, role)
    raise ConfigError(f"source {spec!r} is not known; known are {', '.join(SOURCES)}")
