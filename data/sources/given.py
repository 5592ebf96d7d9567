"""Images that a user names one by one or all at once: files, folders, URLs, sources, or pixels in memory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import PurePosixPath

from data.errors import ConfigError
from data.secrets import mask, reveal, scrub
from data.sources import UNKNOWN_TIME, Entry, Listing, Pixels, Source, Unreadable, known_sources, open_source
from data.sources.files import is_url, open_filesystem
from data.sources.folder import IMAGES

_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")


class Given(Source):
    """Single files, in the given order. The uri of each is its path or URL as the user wrote it."""

    def __init__(self, files: Sequence[str]) -> None:
        super().__init__("files")
        self._files = list(files)

    def _list(self) -> Listing:
        return Listing(
            [
                Entry(mask(file), None, _bytes(file), UNKNOWN_TIME, place)
                for place, file in enumerate(self._files)
            ],
            classes=None,
        )

    def read(self, entries: Sequence[Entry]) -> Iterator[bytes | Pixels | Unreadable]:
        """The content of each file."""
        for entry in entries:
            file = self._files[entry.place]
            content: bytes | Unreadable
            try:
                if is_url(file):
                    filesystem, path = open_filesystem(reveal(file))
                    content = filesystem.cat_file(path)
                else:
                    with open(os.path.expanduser(file), "rb") as opened:
                        content = opened.read()
            except Exception as error:  # each protocol raises different errors
                reason = (
                    error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
                )
                content = Unreadable(f"it can't be read ({scrub(str(reason))})")
            yield content


class InMemory(Source):
    """Pixels that are in memory already. The uri of each is its number, from 0 on.

    Args:
        images: (H, W, C) or (H, W) uint8 each, of any sizes.
    """

    parallel = False

    def __init__(self, images: Sequence[Pixels]) -> None:
        super().__init__("arrays")
        self._images = images

    def _list(self) -> Listing:
        return Listing(
            [Entry(str(place), None, 0, UNKNOWN_TIME, place) for place in range(len(self._images))], None
        )

    def read(self, entries: Sequence[Entry]) -> Iterator[bytes | Pixels | Unreadable]:
        """The pixels of each image."""
        yield from (self._images[entry.place] for entry in entries)


def _bytes(file: str) -> int:
    """Size of a local file; 0 if it is not known."""
    try:
        return 0 if is_url(file) else os.stat(os.path.expanduser(file)).st_size
    except OSError:
        return 0


def open_given(words: Sequence[str]) -> list[Source]:
    """Open what the user named, in the given order. Neighbouring files become one source.

    A word is one of

    - a source as `list` shows it, such as `digits`, `parquet:PATH` or `torchvision:CIFAR10`. If the source
      has splits, these are its test images.
    - a folder, with all images in it and below it
    - a `.parquet` file, or a ZIP or TAR archive
    - any other file, which is taken for an image
    - an fsspec URL of one of these, such as `zip://::photos.zip`. If it ends like an image, it is a file.

    Raises:
        ConfigError: there is no such file, folder or kind of source.
        DataError: a source can't be reached.
    """
    if not words:
        raise ConfigError("no images are given; name files, folders or sources")
    sources: list[Source] = []
    for single, group in groupby(words, key=_is_file):
        together = list(group)
        sources += [Given(together)] if single else map(_open, together)
    return sources


def _kind(word: str) -> str | None:
    """The kind of source that a word names, or None."""
    kind, colon, place = word.partition(":")
    known = known_sources()
    if kind not in known or place.startswith("//"):
        return None
    return kind if bool(colon) != (known[kind].form == kind) else None


def _is_file(word: str) -> bool:
    """Whether a word is a single image.

    Raises:
        ConfigError: there is no such file or folder.
    """
    if _kind(word) is not None:
        return False
    if is_url(word):
        return PurePosixPath(word.partition("?")[0]).suffix.lower() in IMAGES
    path = os.path.expanduser(word)
    if not os.path.exists(path):
        kinds = ", ".join(each.form for each in known_sources().values())
        raise ConfigError(
            f"images {word!r}: there is no such file or folder; give files, folders or a source ({kinds})"
        )
    if not (os.path.isdir(path) or os.path.isfile(path)):
        raise ConfigError(f"images {word!r}: it is neither a file nor a folder")
    return not (os.path.isdir(path) or path.lower().endswith((".parquet", *_ARCHIVES)))


def _open(word: str) -> Source:
    if _kind(word) is not None:
        return open_source(word, "test")
    place = word
    if not is_url(word) and word.lower().endswith(_ARCHIVES):
        protocol = "zip" if word.lower().endswith(".zip") else "tar"
        place = f"{protocol}://::{os.path.abspath(os.path.expanduser(word))}"
    if word.lower().endswith(".parquet"):
        opened = open_source(f"parquet:{place}", "test")
    else:
        opened = open_source(f"folder:{place}?folders=none", "test")
    opened.spec = mask(word)
    return opened
