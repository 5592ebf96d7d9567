"""A tiny run of all kinds of artifacts, and damage to single files of its store."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from in_process import Made, photographs, run_chain

from tasks.config import Config
from tasks.overlay import resolve


def tiny_config(place: Path) -> Config:
    """A run of seconds on photographs in `place`, with its store there."""
    short = {"epochs": 1, "batch_size": 8}
    small = {"backbone": "smallconv", "width": 0.25}
    return resolve(
        {
            "recipe": "damage",
            "store": str(place / "store"),
            "data": {"train": f"folder:{place / 'photos'}", "image_size": 16, "labels_per_class": 4},
            "pretext": {"method": "simclr", **small, **short},
            "embed": {"batch_size": 16},
            "cluster": {"k": 3},
            "transfer": short,
            "student": small,
            "finetune": {"steps": 2, "batch_size": 4},
            "distill": short,
            "evaluate": {"protocols": ["few-label", "clusters"]},
            "compute": {"device": "cpu", "workers": 0},
        }
    )


def scores(made: Made) -> list[dict[str, Any]]:
    """The scores of a run, in a fixed order."""
    return sorted(made.result["scores"], key=lambda row: json.dumps(row, sort_keys=True))


@dataclass
class Undisturbed:
    """A finished tiny run. Tests work on copies of its store.

    Attributes:
        place: its folder, with `photos` and `store`.
        made: the run.
    """

    place: Path
    made: Made

    def copied(self) -> Path:
        """The store as it was after the run. What a test did to it is undone; sizes and times are kept."""
        kept = self.place / "kept"
        shutil.rmtree(self.place / "store")
        shutil.copytree(kept, self.place / "store")
        return self.place / "store"

    def again(self) -> Made:
        """Give the same command."""
        return run_chain(tiny_config(self.place))


def undisturbed(place: Path) -> Undisturbed:
    """Make the tiny run in an empty folder."""
    photographs(place / "photos", each=24, side=24)
    made = run_chain(tiny_config(place))
    shutil.copytree(place / "store", place / "kept")
    return Undisturbed(place, made)


def flip(path: Path, draws: Random, *, quietly: bool) -> None:
    """Flip one bit of a file. Quietly: the time of modification stays."""
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[draws.randrange(len(content))] ^= 1 << draws.randrange(8)
    path.write_bytes(bytes(content))
    if quietly:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def damage(path: Path, kind: int, draws: Random) -> str:
    """Damage a file in one of four ways, and say how."""
    if not path.stat().st_size:
        kind = 3
    match kind:
        case 0 | 1:
            flip(path, draws, quietly=kind == 0)
        case 2:
            os.truncate(path, draws.randrange(path.stat().st_size))
        case _:
            path.unlink()
    return ("flipped, size and time kept", "flipped", "truncated", "deleted")[kind]
