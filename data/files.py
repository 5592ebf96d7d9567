"""Write files so that they appear whole or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Write a file so that a reader sees the old content or the new content, but never a part of it.

    Two writers of the same file do not disturb each other. The one that finishes last wins.

    Args:
        path: the file to write or replace.
        durable: whether to force the new content to disk before it replaces the old. A cache does not need
            it.

    Yields:
        A temporary path in the same folder, to write to. It is deleted if the block raises.
    """
    draft = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
    try:
        yield draft
        if durable:
            with draft.open("rb") as file:
                os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
