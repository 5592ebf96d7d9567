"""What the processes that we start have in common: their environment."""

from __future__ import annotations

import os
from pathlib import Path


def environment() -> dict[str, str]:
    """The environment for a child process, in which it finds our packages.

    A folder `data` or a file `models.py` in the user's current folder must not be imported instead of ours.
    """
    here = str(Path(__file__).parent.parent)
    paths = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": paths, "PYTHONSAFEPATH": "1"}
