"""The photographs of a folder in VOC's layout. They have no labels; `data.voc` reads their objects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

from data.errors import DataError
from data.sources import Entry, Listing, Pixels, Source, Unreadable
from data.sources.folder import FolderSource
from data.types import Split
from data.voc import VocFolder


class VocSource(Source):
    """The photographs of the set for a role.

    The sets are trainval and test, or else train and val. A folder without sets gives all photographs for
    every role.
    """

    def __init__(self, spec: str, place: str, role: Split) -> None:
        super().__init__(spec, place, role)
        self.folder = VocFolder(spec, place)

    @cached_property
    def _photographs(self) -> FolderSource:
        return FolderSource(self.spec, f"{self.folder.place.rstrip('/')}/{self.folder.images}")

    def _list(self) -> Listing:
        wanted = self.folder.sets(self.role)
        found = [entry for entry in self._photographs.entries() if wanted is None or _stem(entry) in wanted]
        if wanted is not None and len(found) < len(wanted):
            missing = sorted(wanted - {_stem(entry) for entry in found})
            raise DataError(
                f"{self.spec}: {len(missing)} images listed in ImageSets/Main are missing, "
                f"first {missing[0]!r}"
            )
        return Listing([_inside(self.folder.images, entry) for entry in found], None)

    def annotations(self, entries: Sequence[Entry]) -> list[str] | None:
        """One hash per image, over its annotation files."""
        return self.folder.sha256(entry.uri for entry in entries)

    def read(self, entries: Sequence[Entry]) -> Iterator[bytes | Pixels | Unreadable]:
        """The content of each file."""
        return self._photographs.read(entries)


def _stem(entry: Entry) -> str:
    return entry.uri.rsplit("/", 1)[-1].rsplit(".", 1)[0]


def _inside(folder: str, entry: Entry) -> Entry:
    """The entry with its uri relative to the VOC folder. Its place stays relative to `folder`."""
    return Entry(f"{folder}/{entry.uri}", None, entry.size, entry.mtime, entry.place)
