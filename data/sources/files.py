"""Open local paths and fsspec URLs (`s3://`, `gs://`, `https://`, `memory://` ...) in the same way."""

from __future__ import annotations

import hashlib
import os
from datetime import datetime
from typing import Any

from data.errors import ConfigError, DataError
from data.sources import UNKNOWN_TIME


def is_url(place: str) -> bool:
    """Whether `place` is an fsspec URL. Chained ones (`zip://...::s3://...`) count too."""
    return "://" in place


def open_filesystem(place: str) -> tuple[Any, str]:
    """Open a path or URL -> (fsspec filesystem, path within it).

    Raises:
        ConfigError: the protocol is not known, or the package for it is not installed.
        DataError: the place can't be reached.
    """
    from fsspec.core import url_to_fs

    try:
        filesystem, path = url_to_fs(place if is_url(place) else os.path.abspath(os.path.expanduser(place)))
    except ImportError as error:
        raise ConfigError(f"{place}: {error}") from None
    except ValueError as error:
        raise ConfigError(
            f"{place}: {error}; give a local path or an fsspec URL such as s3://bucket/folder"
        ) from None
    except OSError as error:
        raise DataError(f"{place} can't be reached: {error}") from error
    return filesystem, str(path)


def modified(info: dict[str, Any]) -> int:
    """A number that changes when a file changes, from fsspec's information about the file.

    It is the modification time in nanoseconds since 1970. Without a time it is a hash of the ETag, and
    without an ETag it is `UNKNOWN_TIME`.
    """
    for name in ("mtime", "LastModified", "last_modified", "updated", "modified", "created"):
        time = info.get(name)
        if isinstance(time, datetime):
            return int(time.timestamp() * 1_000_000) * 1000
        if isinstance(time, int | float):
            return int(time * 1_000_000) * 1000
    for name in ("ETag", "etag"):
        if info.get(name):
            return int.from_bytes(hashlib.sha256(str(info[name]).encode()).digest()[:7], "big")
    return UNKNOWN_TIME
