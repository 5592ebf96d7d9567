"""The photographs of a folder in VOC's layout, one of its sets. They have no label each; what is in them `data.voc` reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

from data.errors import DataError
from data.sources import Entry, Listing, Pixels, Source
from data.sources.folder import FolderSource
from data.types import Split
from data.voc import VocFolder


class VocSource(Source):
    """The set that suits a role: trainval and test, or train and val; without sets, all photographs."""

    def __init__(self, spec: str, place: str, role: Split) -> None:
        super().__init__(spec)
        self.folder, self.role = VocFolder(spec, place), role

    @cached_property
    def _photographs(self) -> FolderSource:
        return FolderSource(self.spec, f"{self.folder.place.rstrip('/')}/{self.folder.images}")

    def _list(self) -> Listing:
        wanted = self.folder.sets(self.role)
        found = [entry for entry in self._photographs.entries() if wanted is None or _stem(entry) in wanted]
        if wanted is not None and len(found) < len(wanted):
            missing = sorted(wanted - {_stem(entry) for entry in found})
            raise DataError(f"{self.spec}: {len(missing)} images of ImageSets/Main are not there, first {missing[0]!r}")
        return Listing([_inside(self.folder.images, entry) for entry in found], None)

    def annotations(self, entries: Sequence[Entry]) -> list[str] | None:
        """Hashes of what is said about each image."""
        return self.folder.sha256(entry.uri for entry in entries)

    def read(self, entries: Sequence[Entry]) -> Iterator[bytes | Pixels]:
        """Each file's content."""
        return self._photographs.read(entries)


def _stem(entry: Entry) -> str:
    return entry.uri.rsplit("/", 1)[-1].rsplit(".", 1)[0]


def _inside(folder: str, entry: Entry) -> Entry:
    """As seen from the folder above; its place stays that of the photographs' folder."""
    return Entry(f"{folder}/{entry.uri}", None, entry.size, entry.mtime, entry.place)
