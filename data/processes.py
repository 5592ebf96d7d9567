"""What the processes that we start have in common: their environment, and how they keep memory."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from pathlib import Path

KEPT_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str((1 << 31) - 1),
    "MALLOC_TOP_PAD_": str(1 << 28),
}
"""Environment variables of a child that computes. Without them, glibc returns large tensors to the system and
faults their pages in again at every step. That takes a quarter of the time of views at 224 px."""
_OPTIONS = {"MALLOC_TRIM_THRESHOLD_": -1, "MALLOC_TOP_PAD_": -2, "MALLOC_MMAP_THRESHOLD_": -3}
"""Their numbers in glibc's mallopt."""


def keep_memory() -> None:
    """Do in this process what `KEPT_MEMORY` does in a child. Variables that the user has set win."""
    with suppress(OSError, AttributeError):  # another C library
        c = ctypes.CDLL(None)
        for name, option in _OPTIONS.items():
            if name not in os.environ:
                c.mallopt(option, int(KEPT_MEMORY[name]))


def environment() -> dict[str, str]:
    """The environment for a child process, in which it finds our packages.

    A folder `data` or a file `models.py` in the user's current folder must not be imported instead of ours.
    """
    here = str(Path(__file__).parent.parent)
    paths = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": paths, "PYTHONSAFEPATH": "1"}
