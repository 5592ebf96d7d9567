"""Make a user's folder whose modules have our packages' names and raise an error when imported."""

from __future__ import annotations

from pathlib import Path

FILES = ("data/__init__.py", "models.py", "tasks.py", "flows/__init__.py")


def make_hostile(folder: Path) -> Path:
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"raise RuntimeError('the user\\'s {name} was imported')\n")
    return folder
