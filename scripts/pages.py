"""A hook of mkdocs: in `nav`, an entry such as `methods/*.md` stands for all pages of a folder.

mkdocs.yml names this file. So a new method or decision is a new file, and nothing lists it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any


def on_config(config: Any) -> Any:
    """Put the pages of a folder in the place of each pattern. mkdocs calls this by its name."""
    config.nav = [_whole(entry, Path(config.docs_dir)) for entry in config.nav]
    return config


def _whole(entry: Any, docs: Path) -> Any:
    match entry:
        case str() if "*" in entry:
            return [path.relative_to(docs).as_posix() for path in sorted(docs.glob(entry))]
        case dict():
            return {title: _whole(below, docs) for title, below in entry.items()}
        case list():
            return [_whole(below, docs) for below in entry]
    return entry
