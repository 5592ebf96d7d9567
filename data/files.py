"""Write files so that they appear whole or not at all, and notice when one is no longer what was written.

Two kinds of files carry their own hash. Small ones that are read whole (`write_sealed`) end with it. Large
ones that are written bit by bit (`sealing`) have it in a file beside them, `NAME.sha256`.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

_SEAL = b"\x00sealed\n"
_SEALED = len(_SEAL) + 32


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes as hex digits. Memory holds one block of the file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Force a file's content, or a folder's list of names, to disk."""
    number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(number)
    finally:
        os.close(number)


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Write a file so that a reader sees the old content or the new content, but never a part of it.

    Two writers of the same file do not disturb each other. The one that finishes last wins.

    Args:
        path: the file to write or replace.
        durable: whether to force the new content and the file's name to disk. A cache does not need it.

    Yields:
        A temporary path in the same folder, to write to. It is deleted if the block raises.
    """
    draft = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
    try:
        yield draft
        if durable:
            sync(draft)
        draft.replace(path)
        if durable:
            sync(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def write_sealed(path: Path, content: bytes) -> None:
    """Replace a small file. Its last 40 bytes are a mark and the sha256 of its content."""
    with replacing(path, durable=False) as draft:
        draft.write_bytes(content + _SEAL + hashlib.sha256(content).digest())


def read_sealed(path: Path) -> bytes | None:
    """Read the content of a file that `write_sealed` wrote.

    A file without the mark is from an earlier version. It is returned as it is.

    Returns:
        The content, or None if the content is not what was written.

    Raises:
        OSError: the file is missing or can't be read.
    """
    found = path.read_bytes()
    content, mark = found[:-_SEALED], found[-_SEALED:]
    if not mark.startswith(_SEAL):
        return found
    return content if mark[len(_SEAL) :] == hashlib.sha256(content).digest() else None


class _Hashing:
    """A file to write to that hashes what it is given."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.digest = file, hashlib.sha256()

    def write(self, content: bytes) -> int:
        self.digest.update(content)
        return self._file.write(content)

    def flush(self) -> None:
        self._file.flush()


@contextmanager
def sealing(path: Path) -> Iterator[IO[bytes]]:
    """Replace a large file, force it to disk, and write its hash to `NAME.sha256`, for `intact`.

    The file beside it has the new hash and the one before. So whenever the process is killed, the file has
    one of them.

    Yields:
        A file to write to, from its beginning to its end.
    """
    beside = path.with_name(f"{path.name}.sha256")
    with replacing(path) as draft:
        with draft.open("wb") as file:
            hashing = _Hashing(file)
            yield cast(IO[bytes], hashing)  # as much of one as writers need
        before = beside.read_text(encoding="ascii").split()[:1] if beside.exists() and path.exists() else []
        with replacing(beside) as note:
            note.write_text("\n".join([hashing.digest.hexdigest(), *before]) + "\n", encoding="ascii")


def intact(path: Path) -> bool:
    """Whether a file has the content that `sealing` wrote. Without a hash it is older, and is accepted."""
    beside = path.with_name(f"{path.name}.sha256")
    try:
        return not beside.exists() or file_sha256(path).encode() in beside.read_bytes().split()
    except OSError:
        return False


class Checked:
    """The hashes of the files that a run has read, so that it reads each file only once to check it.

    A file counts as the same as long as its size, its time of modification and its inode are the same.
    Nothing is remembered from one run to the next. The processes of a run tell each other what they know.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, int, int, int], str] = {}
        self._news: list[list[object]] = []

    def sha256(self, path: Path) -> str:
        """The sha256 of a file, as hex digits.

        Raises:
            OSError: the file is missing or can't be read.
        """
        state = _state(path)
        found = self._known.get(state)
        if found is None:
            found = file_sha256(path)
            self._learn(state, found)
        return found

    def learn(self, path: Path, sha256: str) -> None:
        """Remember the hash of a file that was just written."""
        self._learn(_state(path), sha256)

    def _learn(self, state: tuple[str, int, int, int], sha256: str) -> None:
        self._known[state] = sha256
        self._news.append([*state, sha256])

    def all(self) -> list[list[object]]:
        """All that is known, as JSON values."""
        return [[*state, sha256] for state, sha256 in list(self._known.items())]

    def news(self) -> list[list[object]]:
        """What was learned since the last call, as JSON values."""
        found, self._news = self._news, []
        return found

    def add(self, told: list[list[object]]) -> None:
        """Take over what another process of the run knows."""
        for path, size, time, inode, sha256 in told:
            self._known[(str(path), int(str(size)), int(str(time)), int(str(inode)))] = str(sha256)


def _state(path: Path) -> tuple[str, int, int, int]:
    status = path.stat()
    return str(path), status.st_size, status.st_mtime_ns, status.st_ino
