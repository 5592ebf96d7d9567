"""A folder of image files, given as a local path or an fsspec URL.

The images are labelled if all of them are in sub-folders. The first level of sub-folders names the classes;
deeper levels do not matter. Hidden files are skipped, and so are files with the extension of something else.
A file with an unknown extension or none is tried, so an image with an odd name is used and a broken one is
reported.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from data.errors import DataError
from data.sources import Entry, Listing, Pixels, Source
from data.sources.files import is_url, modified, open_filesystem
from data.types import Split

# fmt: off
NOT_IMAGES = frozenset({
    ".txt", ".md", ".rst", ".tsv", ".csv", ".json", ".jsonl", ".ndjson", ".xml", ".yaml", ".yml", ".toml",
    ".ini", ".cfg", ".html", ".htm", ".css", ".js", ".log", ".lock", ".pdf", ".db", ".sqlite", ".py",
    ".ipynb", ".sh", ".m", ".mat", ".npy", ".npz", ".pkl", ".pt", ".pth", ".h5", ".hdf5", ".parquet",
    ".arrow", ".feather", ".lmdb", ".tfrecord", ".safetensors", ".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz",
    ".zst", ".7z", ".rar", ".mp4", ".avi", ".mov", ".mkv", ".webm", ".mp3", ".wav", ".flac", ".doc", ".docx",
    ".xls", ".xlsx", ".ppt", ".pptx", ".sha256", ".md5", ".url", ".lnk", ".part", ".tmp",
})
# fmt: on
"""Extensions, in lower case, of files that are certainly not images."""

_FETCH = 64  # number of files requested at once from a remote place


def _wanted(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() not in NOT_IMAGES


def _as_uri(path: str) -> str:
    r"""The path as text that UTF-8 can encode. Bytes that are not UTF-8 are written as \xNN."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


class FolderSource(Source):
    """Image files under a folder, at any depth."""

    def __init__(self, spec: str, place: str, role: Split = "train") -> None:
        super().__init__(spec, place, role)
        self.remote = is_url(place)
        self.root = place if self.remote else os.path.abspath(os.path.expanduser(place))

    def _list(self) -> Listing:
        entries = list(self._list_remote() if self.remote else self._list_local())
        if not entries:
            raise DataError(f"{self.spec}: no images in this folder or below it; check the path")
        inside = [entry for entry in entries if "/" in entry.uri]
        if len(inside) < len(entries):
            remark = (
                f"{self.spec}: some images are not in a sub-folder, so sub-folders are not classes: no labels"
            )
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
        """List images recursively. Symbolic links are followed, but never back into a folder above.

        `above` has the (device, inode) of each folder above.
        """
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
                except OSError:  # a broken link is reported when it is read
                    status = item.stat(follow_symlinks=False)
                yield Entry(_as_uri(path), None, status.st_size, status.st_mtime_ns, path)

    def _list_remote(self) -> Iterator[Entry]:
        filesystem, root = open_filesystem(self.root)
        root = root.rstrip("/")
        try:
            found = filesystem.find(root, detail=True)
        except Exception as error:  # each protocol raises different errors
            raise DataError(f"{self.spec} can't be listed: {error}") from error
        if not found:
            raise DataError(
                f"{self.spec}: no such folder, or nothing in it; check the URL and your credentials"
            )
        for full, info in found.items():
            path = full[len(root) :].lstrip("/") if full.startswith(root) else full
            *folders, name = path.split("/")
            if _wanted(name) and not any(folder.startswith(".") for folder in folders):
                yield Entry(path, None, int(info.get("size") or 0), modified(info), path)

    def find(self, uris: Sequence[str]) -> list[Entry]:
        """Find the entries with these uris, in the given order.

        A uri is a path, so the folder is not listed. An image that is gone is noticed when it is read.
        """
        if any("\\x" in uri for uri in uris):
            return super().find(uris)
        return [Entry(uri, None, 0, 0, uri) for uri in uris]

    def read(self, entries: Sequence[Entry]) -> Iterator[bytes | Pixels]:
        """The content of each file."""
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
