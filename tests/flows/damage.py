"""A tiny run of all kinds of artifacts, and damage to single files of its store."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from in_process import Made, photographs, run_chain

from data.files import file_sha256
from tasks.config import Config
from tasks.overlay import resolve

Contents = dict[str, dict[str, str]]
NEW = 3
"""Number of new images of a class in the folder that has grown."""


def tiny_config(place: Path, *, pinned: bool = False) -> Config:
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
            "pin": {"enabled": pinned, "growth": 0.5, "shift": 10.0, "far": 1.0},
            "compute": {"device": "cpu", "workers": 0},
        }
    )


def scores(made: Made) -> list[dict[str, Any]]:
    """The scores of a run, in a fixed order."""
    return sorted(made.result["scores"], key=lambda row: json.dumps(row, sort_keys=True))


def contents(made: Made) -> Contents:
    """Label of a stage -> file -> hash, of all that a run made or found.

    A damaged input can lead to other features and to the same scores, so scores alone say too little.
    The report has times.
    """
    return {
        label: made.store.meta(artifact)["sha256"]
        for label, artifact in made.made.items()
        if artifact.kind != "report"
    }


@dataclass
class Undisturbed:
    """A finished tiny run. Tests work on copies of its store.

    Attributes:
        place: its folder, with `photos` and `store`.
        made: the run.
        contents: what it made.
    """

    place: Path
    made: Made
    contents: Contents
    _night: tuple[list[dict[str, Any]], Contents] | None = None

    def copied(self) -> Path:
        """The store as it was after the run. What a test did to it is undone; sizes and times are kept.

        The files are hard links. The store replaces files and never writes into them; who damages one calls
        `own` first.
        """
        shutil.rmtree(self.place / "store")
        shutil.copytree(self.place / "kept", self.place / "store", copy_function=os.link)
        return self.place / "store"

    def again(self, **how: Any) -> Made:
        """Give the same command."""
        return run_chain(tiny_config(self.place), **how)

    def expected(self) -> tuple[list[dict[str, Any]], Contents]:
        """The scores and contents of the same command without damage."""
        return scores(self.made), self.contents

    def night(self) -> tuple[list[dict[str, Any]], Contents]:
        """The same of the next night's command. It is given once."""
        if self._night is None:
            self.copied()
            with self.growing() as give:
                again = give()
                assert again.result["pinned"]
                self._night = scores(again), contents(again)
        return self._night

    @contextmanager
    def growing(self) -> Iterator[Callable[[], Made]]:
        """New images are in the folder. Yields the command of the next night, which keeps the networks."""
        new = [path for path in (self.place / "new").glob("*/*") if int(path.stem) >= 24]
        here = [self.place / "photos" / path.relative_to(self.place / "new") for path in new]
        for path, target in zip(new, here, strict=True):
            os.link(path, target)
        try:
            yield lambda: run_chain(tiny_config(self.place, pinned=True))
        finally:
            for target in here:
                target.unlink()

    def readers(self, label: str) -> list[str]:
        """The stages that read what a stage made."""
        made = self.made.made[label]
        return [other for other in self.made.made if made in self.made.inputs(other).values()]


def undisturbed(place: Path) -> Undisturbed:
    """Make the tiny run in an empty folder."""
    photographs(place / "photos", each=24, side=24)
    photographs(place / "new", each=24 + NEW, side=24)
    made = run_chain(tiny_config(place))
    shutil.copytree(place / "store", place / "kept")
    return Undisturbed(place, made, contents(made))


def fixed(place: Path) -> dict[str, str]:
    """The hashes of all files in a folder, to see that nobody wrote through a hard link."""
    return {str(path): file_sha256(path) for path in sorted(place.rglob("*")) if path.is_file()}


def own(path: Path) -> None:
    """Replace a hard link by a copy with the same times."""
    copy = path.with_name(f"{path.name}.own")
    shutil.copy2(path, copy)
    copy.replace(path)


def rewrite(path: Path, content: bytes, *, quietly: bool = True) -> None:
    """Give a file another content. Quietly: the time of modification stays."""
    own(path)
    status = path.stat()
    path.write_bytes(content)
    if quietly:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def flip(path: Path, draws: Random, *, quietly: bool) -> None:
    """Flip one bit of a file. Quietly: the time of modification stays."""
    content = bytearray(path.read_bytes())
    content[draws.randrange(len(content))] ^= 1 << draws.randrange(8)
    rewrite(path, bytes(content), quietly=quietly)


MANNERS = ("flipped, size and time kept", "flipped", "truncated", "deleted")


def damage(path: Path, manner: int, draws: Random) -> str:
    """Damage a file in one of four ways, and say how."""
    if not path.stat().st_size:
        manner = 3
    match manner:
        case 0 | 1:
            flip(path, draws, quietly=manner == 0)
        case 2:
            rewrite(path, path.read_bytes()[: draws.randrange(path.stat().st_size)], quietly=False)
        case _:
            path.unlink()
    return MANNERS[manner]
