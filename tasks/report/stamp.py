"""A run's name and start, written into the run's own copy of the report.

The report in the store depends on nothing but what the stage reads, so several runs can share it. Therefore
it lacks what tells one run from another.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

from data.files import replacing

TITLE = "<title>Report · knowledge transfer</title>"
NAME = "Report<!-- name of the run -->"
STARTED = "<!-- start of the run -->"
RUN = "RUN<!-- in a command -->"
"""What the page in the store has in these places."""


def stamp(page: str, name: str, started: str) -> str:
    """Fill in the name and the start of a run.

    Args:
        page: `report.html` from the store.
        name: the run's name, as plain text.
        started: when the run started, as plain text.
    """
    name, started = escape(name), escape(started)
    for place, filled in (
        (TITLE, f"<title>{name} · knowledge transfer</title>"),
        (NAME, name),
        (STARTED, f" · started {started}"),
        (RUN, name),
    ):
        page = page.replace(place, filled)
    return page


def write_stamped(source: Path, target: Path, name: str, started: str) -> None:
    """Write a stamped copy. A reader of `target` sees the old file or the new one, never a part.

    Args:
        source: `report.html` in the store.
        target: `report.html` in the run's folder.
        name: the run's name.
        started: when the run started.
    """
    with replacing(target) as draft:
        draft.write_text(stamp(source.read_text(encoding="utf-8"), name, started), encoding="utf-8")
