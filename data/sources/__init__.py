"""Where images come from. A `Source` lists and reads images, and is opened from one line of configuration.

    digits                    scikit-learn's handwritten digits, embedded
    folder:PATH               image files, with or without one sub-folder per class
    parquet:PATH              a Parquet file, folder or glob with a column of images
    torchvision:NAME          CIFAR10, STL10, ImageNet ...
    voc:PATH                  photographs with boxes and masks, in PASCAL VOC's layout

PATH may be any fsspec URL. A source does not decode images; `data.decode` does. It does not know the
manifest.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.metadata import entry_points
from pkgutil import resolve_name
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from data.errors import ConfigError, DataError
from data.secrets import MASK, mask, reveal
from data.types import Split

GROUP = "knowledge_transfer.source"
"""The entry point group of packages that add a source. The entry's name is the kind, its value the class."""


@dataclass(frozen=True)
class Known:
    """A known kind of source.

    Attributes:
        path: `module:class` of its `Source`, called with (spec, place, role).
        form: how users write it, such as `folder:PATH`.
        sentence: a description for users.
    """

    path: str
    form: str
    sentence: str


OWN: dict[str, Known] = {
    "digits": Known(
        "data.sources.digits:DigitsSource",
        "digits",
        "scikit-learn's 1,797 handwritten digits of 8x8 pixels, embedded",
    ),
    "folder": Known(
        "data.sources.folder:FolderSource",
        "folder:PATH",
        "image files, with or without one sub-folder per class",
    ),
    "parquet": Known(
        "data.sources.parquet:ParquetSource",
        "parquet:PATH",
        "a Parquet file, folder or glob: a column of images (bytes, path), optionally one of labels",
    ),
    "torchvision": Known(
        "data.sources.torchvision:TorchvisionSource",
        "torchvision:NAME",
        "CIFAR10, STL10, ImageNet ...: a local copy, or a download; NAME?root=FOLDER",
    ),
    "voc": Known(
        "data.sources.voc:VocSource",
        "voc:PATH",
        "PASCAL VOC's layout: JPEGImages, Annotations, SegmentationClass, ImageSets; or Penn-Fudan's",
    ),
}
"""The built-in kinds, by the word before the colon. A class is imported when its kind is opened."""


@cache
def known_sources() -> dict[str, Known]:
    """All kinds of source by the word before the colon: the built-in ones, then those of installed packages.

    Raises:
        TypeError: a package adds a kind that already exists, or a class that is not a `Source`.
    """
    found = dict(OWN)
    for point in sorted(entry_points(group=GROUP)):
        source = point.load()
        if point.name in found or not issubclass(source, Source):
            raise TypeError(
                f"entry point {point.value}: the kind {point.name!r} already exists, "
                "or the class is not a Source; see examples/"
            )
        sentence = (source.__doc__ or "").partition("\n")[0].rstrip(".")
        found[point.name] = Known(point.value, source.form, sentence)
    return found


UNKNOWN_TIME = -1
"""`Entry.mtime` if the place does not report times. Such an entry is read again each time."""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Entry:
    """One image that is listed but not read.

    Attributes:
        uri: name of the image, unique within the source. It does not depend on where the source is.
        label: position in the source's `classes`, or None.
        size: size in bytes of the file that holds the image (the whole Parquet file for one of its rows).
        mtime: modification time of that file in nanoseconds since 1970, or `UNKNOWN_TIME`. If `size` and
            `mtime` are the same as before, the image counts as unchanged.
        place: where the source finds the image. Reading in the order of `place` is sequential.
    """

    uri: str
    label: int | None
    size: int
    mtime: int
    place: Any


@dataclass(frozen=True)
class Listing:
    """What a source knows without reading an image.

    Attributes:
        entries: all images.
        classes: names of the classes, or None without labels.
        remarks: sentences that the user should read, such as what was left out.
        guesses: sentences about what was guessed, such as which column holds the labels.
    """

    entries: list[Entry]
    classes: tuple[str, ...] | None
    remarks: tuple[str, ...] = ()
    guesses: tuple[str, ...] = ()


@dataclass(frozen=True)
class Named:
    """The classes of the images that can be used.

    Attributes:
        labels: position in `classes` of each image, or None.
        classes: names of the classes, or None without labels.
        left_out: uri -> why the image is not used although it can be read.
        guesses: sentences about what was guessed of the classes.
    """

    labels: list[int | None]
    classes: tuple[str, ...] | None
    left_out: dict[str, str] = field(default_factory=dict)
    guesses: tuple[str, ...] = ()


class Unreadable(str):
    """Why a source can't give an image that it lists. `Source.read` yields it in place of the content."""

    __slots__ = ()


class Source(ABC):
    """Images in one place.

    A source lists its images once, when they are first needed. The list is not pickled, so worker processes
    get a source without it.

    Another package can add a kind of source with an entry point of the group `knowledge_transfer.source`. The
    entry's name is the word before the colon, and its value is the class. The first line of the class's
    docstring describes the kind to users.

    Args:
        spec: the line of configuration from which the source was opened.
        place: the part of `spec` after the colon.
        role: which images are wanted, if the source has splits.

    Attributes:
        form: how users write the source, such as `folder:PATH`; only for sources of other packages.
        spec: the line of configuration from which the source was opened.
        random_access: whether reading out of order is as fast as reading in order.
        parallel: whether each worker process may have its own copy (False if it keeps all pixels in memory).
    """

    form: ClassVar[str] = ""
    random_access: bool = True
    parallel: bool = True

    def __init__(self, spec: str, place: str = "", role: Split = "train") -> None:
        self.spec, self.place, self.role = spec, place, role

    @abstractmethod
    def _list(self) -> Listing:
        """List all images, in any order.

        Raises:
            DataError: the place is missing, empty or has another layout.
        """

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits that the source itself keeps apart, besides train.

        If the user gives no test source, the test split of train's source is the test. The same holds for
        unlabelled images.
        """
        return ()

    def named(self, usable: Sequence[Entry]) -> Named:
        """Find the classes of the images that can be decoded.

        Most sources know the classes from the listing. In a folder, files that are no images must not count.

        Args:
            usable: the entries whose images can be decoded.
        """
        return Named([entry.label for entry in usable], self.classes)

    def certain(self, entry: Entry) -> bool:
        """Whether an entry is surely meant to be an image. If not, it can't count as a broken one."""
        return True

    @abstractmethod
    def read(self, entries: Sequence[Entry]) -> Iterator[bytes | Pixels | Unreadable]:
        """Read the images of the entries, in the given order.

        Yields:
            For each entry the content of the image file. If the source has no files, (H, W, 3) uint8 pixels.
            If the source knows why it has no content for an entry: `Unreadable` with the reason.

        Raises:
            OSError: this entry can't be read; the others may still be readable.
            DataError: the file that holds the images is damaged.
        """

    def batches(self, entries: Sequence[Entry], size: int) -> Iterator[list[Entry]]:
        """Split entries into lists of about `size` that are cheap to read, in the order of `place`."""
        ordered = sorted(entries, key=lambda entry: entry.place)
        for start in range(0, len(ordered), size):
            yield ordered[start : start + size]

    def find(self, uris: Sequence[str]) -> list[Entry]:
        """Find the entries with these uris, in the given order.

        Raises:
            DataError: an image is gone.
        """
        return self._found({entry.uri: entry for entry in self.entries()}, uris)

    def _found(self, known: Mapping[str, Entry], uris: Sequence[str]) -> list[Entry]:
        missing = [uri for uri in uris if uri not in known]
        if missing:
            raise DataError(
                f"{self.spec}: {len(missing)} images of the manifest are gone, first {missing[0]!r}; "
                "run again to list the source again"
            )
        return [known[uri] for uri in uris]

    def annotations(self, entries: Sequence[Entry]) -> list[str] | None:
        """One hash per entry over the image's annotations, without its label. None if the source has none."""
        return None

    def stamp(self) -> str | None:
        """A text that changes whenever the images may have changed, found without listing them.

        None if only listing can show a change.

        Raises:
            DataError: the place is missing or empty.
        """
        return None

    @cached_property
    def _listing(self) -> Listing:
        listing = self._list()
        if not listing.entries:
            raise DataError(
                f"{self.spec}: no images found; check the path, and that the images are not hidden files"
            )
        listing.entries.sort(key=lambda entry: entry.uri)
        return listing

    def entries(self) -> list[Entry]:
        """All images, sorted by uri."""
        return self._listing.entries

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the classes, or None without labels. A label is a position in this tuple."""
        return self._listing.classes

    @property
    def remarks(self) -> tuple[str, ...]:
        """Sentences that the user should read, such as what was left out."""
        return self._listing.remarks

    @property
    def guesses(self) -> tuple[str, ...]:
        """Sentences about what the source guessed."""
        return self._listing.guesses

    def __getstate__(self) -> dict[str, Any]:
        found_once = {
            name for kind in type(self).__mro__ for name, value in vars(kind).items() if _is_cached(value)
        }
        return {name: value for name, value in self.__dict__.items() if name not in found_once}


def _is_cached(value: object) -> bool:
    return isinstance(value, cached_property)


def open_source(spec: str, role: Split) -> Source:
    """Open a source. Nothing is listed or read yet.

    Args:
        spec: a kind of source, followed by its place if it needs one: `digits`, `folder:PATH` ...
        role: which split is wanted. A source with splits gives its test (or validation) split for "test". For
            "unlabelled" it gives its unlabelled split, or its train split if it has no unlabelled one. A
            source without splits gives all its images for every role.

    Raises:
        ConfigError: the kind is not known, or the place is missing.
        DataError: the place can't be reached.
    """
    spec = reveal(spec)
    if MASK in mask(spec) and mask(spec) == spec:
        raise ConfigError(
            f"source {spec!r}: its secret was masked when the configuration was stored; give the source again"
        )
    kind, _, place = spec.partition(":")
    known = known_sources()
    forms = ", ".join(each.form for each in known.values())
    if kind not in known or (bool(place) and known[kind].form == kind):
        raise ConfigError(f"source {spec!r} is not known; known are {forms}")
    if not place and known[kind].form != kind:
        raise ConfigError(f"source {spec!r}: the part after the colon is missing; write {known[kind].form}")
    opened: Source = resolve_name(known[kind].path)(mask(spec), place, role)
    return opened
