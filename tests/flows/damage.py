"""A tiny run of all kinds of artifacts, and damage to single files of its store."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from in_process import Events, Made, Workers, photographs, run_chain

from data.files import file_sha256
from data.schemas import SCORES
from data.tables import write_table
from data.types import Artifact
from flows.run import Run
from tasks.config import Config
from tasks.job import Job
from tasks.overlay import resolve
from tasks.stage import Outcome, Stage

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
        grows: whether the command of the next night can be given.
    """

    place: Path
    made: Made
    contents: Contents
    grows: bool = True
    _reads: dict[str, set[Artifact]] = field(default_factory=dict)
    _night: list[dict[str, Any]] | None = None

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

    def night(self) -> list[dict[str, Any]]:
        """The scores of the next night's command without damage. It is given once."""
        if self._night is None:
            self.copied()
            with self.growing() as give:
                again = give()
                assert again.result["pinned"]
                self._night = scores(again)
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
        if not self._reads:  # while the store is whole
            self.copied()
            self._reads.update({other: set(self.made.inputs(other).values()) for other in self.made.made})
        made = self.made.made[label]
        return [other for other in self.made.made if made in self._reads[other]]


def undisturbed(place: Path) -> Undisturbed:
    """Make the tiny run in an empty folder."""
    photographs(place / "photos", each=24, side=24)
    photographs(place / "new", each=24 + NEW, side=24)
    made = run_chain(tiny_config(place))
    shutil.copytree(place / "store", place / "kept")
    return Undisturbed(place, made, contents(made))


IMITATED = {
    "images": (),
    "teacher": ("images",),
    "features": ("images", "teacher"),
    "clusters": ("features",),
    "assignments": ("features", "clusters"),
    "student": ("images", "assignments"),
    "labels": ("images",),
    "model": ("student", "labels"),
    "scores": ("images", "model"),
    "report": ("model", "scores"),
}
"""The stages of an imitated run, and what each reads."""


class Imitated(Undisturbed):
    """A run of milliseconds. Each stage writes a hash of all bytes that it reads, so any damage is passed on.

    Store, record, fingerprints and mending are the real ones; only the builds are not.
    """

    def again(self, **how: Any) -> Made:
        """Give the same command."""
        return imitate(self.place)


def imitate(place: Path) -> Made:
    """Run the imitated stages. Instead of their modules, `tasks.job` must find `build_imitated`."""
    config, events = Config(store=str(place / "store")), Events()
    with Run(config, "run", [events]) as record:
        record.workers = Workers(config, record)  # type: ignore[assignment]
        made: dict[str, Artifact] = {}
        for label, reads in IMITATED.items():
            stage = Stage(name=label, kind=label, version=1, process="plain")
            request = stage.request(settings={}, inputs={name: made[name] for name in reads})
            made[label] = record.make(label, request)[0]
        return Made(made, record.finish(made), events, record.store)


def build_imitated(job: Job) -> Outcome:
    """Write a hash of all that was read, as several files of different forms."""
    read = hashlib.sha256(job.request.stage.encode())
    for name in sorted(job.request.inputs):
        for path in sorted(job.path(name).rglob("*")):
            if path.is_file() and path.name != "meta.json":
                read.update(path.name.encode() + path.read_bytes())
        read.update(str(job.meta(name)["told"]).encode())
    told = read.hexdigest()
    match job.request.stage:
        case "scores":
            row = {"evaluation": "few-label", "model": "shipped", "metric": "top1", "split": "test"}
            row |= {"setting": "", "value": int(told[:8], 16) / 2**32, "seed": 0, "n": 100}
            write_table(job.out / "scores.parquet", {name: [row[name]] for name in SCORES.names}, SCORES)
        case "report":
            (job.out / "report.html").write_text(told)
        case _:
            (job.out / "model.json").write_text(json.dumps({"told": told}))
            (job.out / "weights.bin").write_bytes(read.digest() * 100)
            (job.out / "part").mkdir()
            (job.out / "part" / "more.bin").write_bytes(read.digest())
    return Outcome(rows=1, meta={"told": told})


def imitated(place: Path) -> Imitated:
    """Make the imitated run in an empty folder."""
    made = imitate(place)
    shutil.copytree(place / "store", place / "kept")
    return Imitated(place, made, contents(made), grows=False)


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
