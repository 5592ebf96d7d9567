"""A folder of image files, local or behind an fsspec URL.

Labelled if images lie in sub-folders and none beside these: the first level of sub-folders names the classes, deeper
levels don't matter. Hidden files and files whose extension says that they are something else are passed over; a file
of unknown or no extension is tried, so that an image with an odd name is used and a broken one is reported.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from data.errors import DataError
from data.sources import Entry, Listing, Pixels, Source
from data.sources.files import is_url, modified, open_filesystem

# fmt: off
NOT_IMAGES = frozenset({
    ".txt", ".md", ".rst", ".tsv", ".csv", ".json", ".jsonl", ".ndjson", ".xml", ".yaml", ".yml", ".toml", ".ini",
    ".cfg", ".html", ".htm", ".css", ".js", ".log", ".lock", ".pdf", ".db", ".sqlite", ".py", ".ipynb", ".sh", ".m",
    ".mat", ".npy", ".npz", ".pkl", ".pt", ".pth", ".h5", ".hdf5", ".parquet", ".arrow", ".feather", ".lmdb",
    ".tfrecord", ".safetensors", ".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar", ".mp4",
    ".avi", ".mov", ".mkv", ".webm", ".mp3", ".wav", ".flac", ".doc", ".docx", ".xls", ".xlsx", ".ppt", ".pptx",
    ".sha256", ".md5", ".url", ".lnk", ".part", ".tmp",
})
# fmt: on
"""Extensions, in lower case, of files that are certainly no images."""

_FETCH = 64  # files asked for at once from a remote place


def _wanted(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() not in NOT_IMAGES


def _as_uri(path: str) -> str:
    r"""The path as text that UTF-8 can hold: bytes of a name in another encoding are written as \xNN."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


class FolderSource(Source):
    """Image files under a folder, at any depth."""

    def __init__(self, spec: str, place: str) -> None:
        super().__init__(spec)
        self.remote = is_url(place)
        self.root = place if self.remote else os.path.abspath(os.path.expanduser(place))

    def _list(self) -> Listing:
        entries = list(self._list_remote() if self.remote else self._list_local())
        if not entries:
            raise DataError(f"{self.spec}: no images in this folder or below it; check the path")
        inside = [entry for entry in entries if "/" in entry.uri]
        if len(inside) < len(entries):
            remark = f"{self.spec}: images lie beside the sub-folders, so these are not taken as classes: no labels"
            return Listing(entries, None, (remark,) if inside else ())
        classes = sorted({entry.uri.partition("/")[0] for entry in entries})
        label = {name: position for position, name in enumerate(classes)}
        labelled = [
            Entry(entry.uri, label[entry.uri.partition("/")[0]], entry.size, entry.mtime, entry.place)
            for entry in entries
        ]
        return Listing(labelled, tuple(classes))

    def _list_local(self) -> Iterator[Entry]:
        if not os.path.isdir(self.root):
            what = "is a file, not a folder" if os.path.exists(self.root) else "doesn't exist"
            raise DataError(f"{self.spec}: {self.root} {what}; give the folder that holds the images")
        status = os.stat(self.root)
        yield from self._walk("", ((status.st_dev, status.st_ino),))

    def _walk(self, folder: str, above: tuple[tuple[int, int], ...]) -> Iterator[Entry]:
        """Follows symbolic links, but never into a folder that it is already inside of (`above`: device, inode)."""
        try:
            with os.scandir(os.path.join(self.root, folder)) as scan:
                found = list(scan)
        except OSError as error:
            raise DataError(f"{self.spec}: folder {folder!r} can't be listed: {error.strerror}") from error
        for item in found:
            path = f"{folder}/{item.name}" if folder else item.name
            if item.is_dir():
                status = item.stat()
                identity = (status.st_dev, status.st_ino)
                if not item.name.startswith(".") and identity not in above:
                    yield from self._walk(path, (*above, identity))
            elif _wanted(item.name):
                try:
                    status = item.stat()
                except OSError:  # a link to nothing: reported when it is read
                    status = item.stat(follow_symlinks=False)
                yield Entry(_as_uri(path), None, status.st_size, status.st_mtime_ns, path)

    def _list_remote(self) -> Iterator[Entry]:
        filesystem, root = open_filesystem(self.root)
        root = root.rstrip("/")
        try:
            found = filesystem.find(root, detail=True)
        except Exception as error:  # each protocol has errors of its own
            raise DataError(f"{self.spec} can't be listed: {error}") from error
        if not found:
            raise DataError(f"{self.spec}: no such folder, or nothing in it; check the URL and your credentials")
        for full, info in found.items():
            path = full[len(root) :].lstrip("/") if full.startswith(root) else full
            *folders, name = path.split("/")
            if _wanted(name) and not any(folder.startswith(".") for folder in folders):
                yield Entry(path, None, int(info.get("size") or 0), modified(info), path)

    def find(self, uris: Sequence[str]) -> list[Entry]:
        """As in every source, but a uri is a path, so that nothing needs listing; one that is gone shows on reading."""
        if any("\\x" in uri for uri in uris):
            return super().find(uris)
        return [Entry(uri, None, 0, 0, uri) for uri in uris]

    def read(self, entries: Sequence[Entry]) -> Iterator[bytes | Pixels]:
        """Each file's content."""
        if self.remote:
            yield from self._read_remote(entries)
            return
        for entry in entries:
            with open(os.path.join(self.root, entry.place), "rb") as file:
                content = file.read()
            yield content

    def _read_remote(self, entries: Sequence[Entry]) -> Iterator[bytes]:
        filesystem, root = open_filesystem(self.root)
        for start in range(0, len(entries), _FETCH):
            paths = [f"{root.rstrip('/')}/{entry.place}" for entry in entries[start : start + _FETCH]]
            contents = filesystem.cat(paths, on_error="return")
            for path in paths:
                content = contents[path]
                if isinstance(content, Exception):
                    raise OSError(f"{type(content).__name__}: {content}") from content
                yield content
