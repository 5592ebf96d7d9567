"""Where the packages of the pipeline are, and how our processes find them before all others.

If installed, `data`, `models`, `tasks` and `flows` are in the folder `_inside` of this package, so that none
of these names is in site-packages. In a checkout they are beside this package. See
docs/decisions/0013-one-name.md.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType

NAMES = ("data", "models", "tasks", "flows")
"""The packages of the pipeline."""


def place() -> Path:
    """Return the folder that holds the packages of the pipeline."""
    package = Path(__file__).resolve().parent
    inside = package / "_inside"
    return inside if inside.is_dir() else package.parent


def enter() -> None:
    """Put the packages of the pipeline first on this process's path. A second call changes nothing.

    Only our own processes call this. In them the names `data`, `models`, `tasks` and `flows` are ours.

    Raises:
        ImportError: another module is already loaded under one of these names.
    """
    here = place()
    for name in NAMES:
        loaded = sys.modules.get(name)
        if loaded is not None and not _lies_in(here / name, loaded):
            raise ImportError(
                f"a module named {name!r} is already loaded from {_origin(loaded)}, and knowledge_transfer "
                f"needs its own package {name!r}; use a process that has not loaded that module, or rename it"
            )
    if sys.path[:1] != [str(here)]:
        sys.path[:] = [str(here), *(entry for entry in sys.path if entry != str(here))]


def environment() -> dict[str, str]:
    """Return an environment in which a child finds our packages before those in the current folder."""
    paths = os.pathsep.join(filter(None, [str(place()), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": paths, "PYTHONSAFEPATH": "1"}


def refusal(system: str) -> str | None:
    """Say why the pipeline does not run on an operating system.

    Args:
        system: as in `sys.platform`.

    Returns:
        One line, or None if the pipeline runs there.
    """
    if system == "linux":
        return None
    return (
        f"this system ({system}) is not supported: the pipeline needs the locks of the Linux kernel, and "
        "FAISS, whose package faiss-gpu exists for Linux only; use WSL2 or a Linux container"
    )


def _origin(module: ModuleType) -> str:
    places = [getattr(module, "__file__", None), *getattr(module, "__path__", ())]
    return next((str(found) for found in places if found), "an unknown place")


def _lies_in(folder: Path, module: ModuleType) -> bool:
    return Path(_origin(module)).resolve().is_relative_to(folder.resolve())
