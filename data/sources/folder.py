"""A folder of image files, given as a local path or an fsspec URL.

`data.sources.layout` decides what the sub-folders mean: classes, splits, or nothing. A user can
choose the meaning: `folder:PATH?folders=classes` (or `splits`, or `none`). These are skipped: hidden files,
files whose extension shows that they are not images, folders of tools and NAS systems, and a store of this
project. A file with an unknown extension or none is tried, so an image with an odd name is used and a broken
one is reported.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence

from data.errors import DataError
from data.secrets import scrub
from data.sources import Entry, Listing, Named, Pixels, Source, Unreadable
from data.sources.files import is_url, local_path, modified, open_filesystem, split_options
from data.sources.layout import MEANINGS, classes_of, splits_of
from data.sources.splits import beside_train, serve
from data.types import Split
from data.wording import counted

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

# fmt: off
IMAGES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".ppm",
    ".pgm", ".pbm", ".pnm", ".tga", ".avif", ".jp2", ".j2k", ".ico", ".pcx", ".qoi", ".heic", ".heif",
})
# fmt: on
"""Extensions, in lower case, of images."""

# fmt: off
TOOLS = frozenset({
    "@eadir", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "$recycle.bin", "__macosx",
    "__pycache__", "lost+found", "node_modules", "system volume information", "site-packages", "cvs",
})
# fmt: on
"""Names, in lower case, of folders that tools, NAS systems and operating systems make."""

_TABLES = (".csv", ".tsv", ".jsonl", ".parquet")
_STORE = ("artifacts", "drafts", "cache", "runs")
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
        place, options = split_options(place, {"folders": MEANINGS})
        self.meaning = options.get("folders", "auto")
        self.remote = is_url(place)
        self.root = place if self.remote else local_path(place)
        self._passed: Counter[str] = Counter()
        self._tables: list[str] = []
        self._pipes: list[str] = []
        self._split_of: dict[str, str] = {}

    def _list(self) -> Listing:
        self._passed, self._tables, self._pipes = Counter(), [], []
        found = list(self._list_remote() if self.remote else self._list_local())
        entries, guesses, remarks = self._of_role(found)
        remarks += self._left_out()
        if not entries:
            raise DataError(f"{self.spec}: no images in this folder or below it; check the path")
        named = self.named(entries)
        labelled = [
            Entry(entry.uri, label, entry.size, entry.mtime, entry.place)
            for entry, label in zip(entries, named.labels, strict=True)
        ]
        return Listing(labelled, named.classes, tuple(remarks), tuple(guesses))

    def _splits(self, entries: Sequence[Entry]) -> dict[str, str]:
        """The top folders that are splits -> their split."""
        if self.meaning not in ("auto", "splits"):
            return {}
        found = splits_of([entry.uri for entry in entries])
        if self.meaning == "splits" and not found:
            raise DataError(
                f"{self.spec}: the top folders are not all named like splits (train, val, test, unlabelled), "
                "or hold no sub-folders"
            )
        return found

    def _of_role(self, entries: list[Entry]) -> tuple[list[Entry], list[str], list[str]]:
        """The entries of the split that is used for this source's role -> (entries, guesses, remarks)."""
        self._split_of = self._splits(entries)
        if not self._split_of:
            return entries, [], []
        there = set(self._split_of.values())
        served = serve(self.role, there)
        if served is None:
            raise DataError(
                f"{self.spec}: its folders are splits ({', '.join(sorted(self._split_of))}), and none is for "
                f"{self.role}; name a folder of images"
            )
        mine = [e for e in entries if "/" in e.uri and self._split_of[e.uri.partition("/")[0]] == served]
        folders = [top for top, split in self._split_of.items() if split == served]
        guesses = [f"top folders are taken as splits: {', '.join(map(repr, folders))} for {self.role}"]
        remarks = []
        beside = [entry.uri for entry in entries if "/" not in entry.uri]
        if beside:
            one, many = "file lies beside the splits and is", "files lie beside the splits and are"
            remarks.append(f"{counted(len(beside), one, many)} left out, first {beside[0]!r}")
        if {"test", "validation"} <= there and self.role == "train":
            unused = [top for top, split in self._split_of.items() if split == "validation"]
            remarks.append(f"the folder {unused[0]!r} is not used, because there is a folder for test")
        return mine, guesses, remarks

    def _left_out(self) -> list[str]:
        remarks = []
        if self._passed:
            names = ", ".join(f"{name!r}" for name in sorted(self._passed)[:4])
            folders = counted(sum(self._passed.values()), "folder is", "folders are")
            remarks.append(
                f"{folders} left out (hidden, or of a tool, a NAS or a store): "
                f"{names}{' ...' if len(self._passed) > 4 else ''}"
            )
        if self._pipes:
            remarks.append(
                counted(len(self._pipes), "is no regular file and is", "are not regular files and are")
                + f" left out: {self._pipes[0]!r}"
            )
        if self._tables:
            example = self._tables[0]
            remarks.append(
                f"{example!r} lies among the images and is not read; if it has the labels, set "
                f"data.labels={'parquet' if example.endswith('.parquet') else 'csv'}:PATH"
            )
        return remarks

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits for which the folder has sub-folders, besides train."""
        self.entries()
        return beside_train(set(self._split_of.values()))

    def named(self, usable: Sequence[Entry]) -> Named:
        """The classes of the images that can be decoded. Other files, such as a licence, do not count."""
        splits = bool(self._split_of)
        paths = [entry.uri.partition("/")[2] if splits else entry.uri for entry in usable]
        meaning = "auto" if self.meaning == "splits" else self.meaning
        found = classes_of(paths, meaning)
        classes = tuple(sorted({name for name in found.names if name is not None}))
        position = {name: label for label, name in enumerate(classes)}
        labels = [None if name is None else position[name] for name in found.names]
        left_out = {usable[i].uri: reason for i, reason in found.left_out.items()}
        return Named(labels, classes or None, left_out, found.guesses)

    def certain(self, entry: Entry) -> bool:
        """Whether the file has an image's extension."""
        return os.path.splitext(entry.uri)[1].lower() in IMAGES

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
                if item.name.startswith(".") or item.name.lower() in TOOLS or _made_by_a_tool(item.path):
                    self._passed[item.name] += 1
                elif identity not in above:
                    yield from self._walk(path, (*above, identity))
                continue
            self._notice_table(path)
            if _wanted(item.name):
                try:
                    status = item.stat()
                except OSError:  # a broken link is reported when it is read
                    status = item.stat(follow_symlinks=False)
                if not (stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode)):
                    self._pipes.append(path)  # opening a pipe would wait for ever
                    continue
                yield Entry(_as_uri(path), None, status.st_size, status.st_mtime_ns, path)

    def _notice_table(self, path: str) -> None:
        if path.count("/") < 2 and path.lower().endswith(_TABLES) and not path.startswith("."):
            self._tables.append(path)

    def _list_remote(self) -> Iterator[Entry]:
        filesystem, root = open_filesystem(self.root)
        try:
            found = filesystem.find(root, detail=True)
        except Exception as error:  # each protocol raises different errors
            raise DataError(f"{self.spec} can't be listed: {scrub(str(error))}") from error
        if not found:
            raise DataError(
                f"{self.spec}: no such folder, or nothing in it; check the URL and your credentials"
            )
        for full, info in found.items():
            path = _below(full, root).removeprefix("./")  # as `tar cf x.tar .` writes them
            *folders, name = path.split("/")
            passed = next((f for f in folders if f.startswith(".") or f.lower() in TOOLS), None)
            if passed is not None:
                self._passed[passed] += 1
                continue
            self._notice_table(path)
            if _wanted(name):
                yield Entry(path, None, int(info.get("size") or 0), modified(info), path)

    def find(self, uris: Sequence[str]) -> list[Entry]:
        """Find the entries with these uris, in the given order.

        A uri is a path, so the folder is not listed. An image that is gone is noticed when it is read.
        """
        if any("\\x" in uri for uri in uris):
            return super().find(uris)
        return [Entry(uri, None, 0, 0, uri) for uri in uris]

    def read(self, entries: Sequence[Entry]) -> Iterator[bytes | Pixels | Unreadable]:
        """The content of each file."""
        if self.remote:
            yield from self._read_remote(entries)
            return
        for entry in entries:
            try:
                with open(os.path.join(self.root, entry.place), "rb") as file:
                    content: bytes | Unreadable = file.read()
            except OSError as error:
                content = Unreadable(f"it can't be read ({error.strerror or error})")
            yield content

    def _read_remote(self, entries: Sequence[Entry]) -> Iterator[bytes | Unreadable]:
        filesystem, root = open_filesystem(self.root)
        above = f"{root.rstrip('/')}/" if root.strip("/") else ""  # an archive's own root has no name
        for start in range(0, len(entries), _FETCH):
            paths = [above + entry.place for entry in entries[start : start + _FETCH]]
            contents = filesystem.cat(paths, on_error="return")
            for path in paths:
                content = contents.get(path, contents.get(filesystem._strip_protocol(path)))
                if isinstance(content, KeyError | FileNotFoundError) and not above:
                    content = filesystem.cat([f"./{path}"], on_error="return").popitem()[1]
                if isinstance(content, bytes):
                    yield content
                else:
                    yield Unreadable(f"it can't be read ({type(content).__name__}: {scrub(str(content))})")


def _made_by_a_tool(path: str) -> bool:
    """Whether a folder is a virtual environment or a store of this project."""
    if os.path.exists(os.path.join(path, "pyvenv.cfg")):
        return True
    return all(os.path.isdir(os.path.join(path, name)) for name in _STORE)


def _below(full: str, root: str) -> str:
    """The path of a file relative to the root, as fsspec gives both: with or without a leading slash."""
    full, root = full.lstrip("/"), root.strip("/")
    return full[len(root) :].lstrip("/") if full.startswith(root) else full
