"""Nobody reads the files of an artifact before the store has checked them."""

from __future__ import annotations

import ast

from conftest import ROOT

SHOWN = {
    "flows/housekeeping.py",  # checks, sizes and deletes
    "tasks/earlier.py",  # asks when an artifact was made
    "flows/server/page.py",  # shows the path on the run's page
    "flows/server/review.py",  # shows the path to a reviewer
}
"""Files that use the path of an artifact without reading what is there."""


def test_the_folder_of_an_artifact_comes_from_whole() -> None:
    """Calls of `store.folder(...)` would read what was not checked."""
    found = {
        path.relative_to(ROOT).as_posix()
        for package in ("tasks", "flows")
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "folder"
    }
    assert found <= SHOWN
