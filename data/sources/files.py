"""Open local paths and fsspec URLs (`s3://`, `gs://`, `https://`, `memory://` ...) in the same way."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import unquote

from data.errors import ConfigError, DataError
from data.secrets import mask, scrub
from data.sources import UNKNOWN_TIME


def is_url(place: str) -> bool:
    """Whether `place` is an fsspec URL. Chained ones (`zip://...::s3://...`) count too."""
    return "://" in place


def split_options(place: str, known: Mapping[str, Sequence[str]]) -> tuple[str, dict[str, str]]:
    """Split `PATH?name=value&...` -> (PATH, options). A path may contain "?", for example in a glob.

    Args:
        place: the part of a source after the colon.
        known: option -> allowed values, or an empty sequence if any value is allowed.

    Raises:
        ConfigError: an option has a value that is not allowed.
    """
    path, _, query = place.rpartition("?")
    pairs = [part.partition("=") for part in query.split("&")]
    if not path or not all(sign and name in known for name, sign, _ in pairs):
        return place, {}
    options = {name: unquote(value) for name, _, value in pairs}
    for name, value in options.items():
        if known[name] and value not in known[name]:
            raise ConfigError(f"{place}: {name}={value} is not known; choose one of {', '.join(known[name])}")
    return path, options


def local_path(place: str) -> str:
    """A local path as users write it, made absolute. `~` is the home folder."""
    return os.path.abspath(os.path.expanduser(place))


def open_filesystem(place: str) -> tuple[Any, str]:
    """Open a path or URL -> (fsspec filesystem, path within it).

    Raises:
        ConfigError: the protocol is not known, or the package for it is not installed.
        DataError: the place can't be reached.
    """
    from fsspec.core import url_to_fs

    try:
        filesystem, path = url_to_fs(place if is_url(place) else local_path(place))
    except ImportError as error:
        raise ConfigError(f"{mask(place)}: {scrub(str(error))}") from None
    except ValueError as error:
        raise ConfigError(
            f"{mask(place)}: {scrub(str(error))}; give a local path or an fsspec URL such as s3://bucket/folder"
        ) from None
    except OSError as error:
        raise DataError(f"{mask(place)} can't be reached: {scrub(str(error))}") from error
    return filesystem, str(path)


def modified(info: dict[str, Any]) -> int:
    """A number that changes when a file changes, from fsspec's information about the file.

    It is the modification time in nanoseconds since 1970. Without a time it is a hash of the ETag or of
    an archive's checksum, and without an ETag or a checksum it is `UNKNOWN_TIME`.
    """
    for name in ("mtime", "LastModified", "last_modified", "updated", "modified", "created"):
        time = info.get(name)
        if isinstance(time, datetime):
            return int(time.timestamp() * 1_000_000) * 1000
        if isinstance(time, int | float):
            return int(time * 1_000_000) * 1000
    for name in ("ETag", "etag", "CRC"):
        if info.get(name):
            return int.from_bytes(hashlib.sha256(str(info[name]).encode()).digest()[:7], "big")
    return UNKNOWN_TIME
