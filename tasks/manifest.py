"""Manifest: which images there are, checked and hashed; broken ones are listed with the reason."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from data.store import Store, digest, write_json
from data.types import Artifact, Split
from tasks.config import Compute, Config
from tasks.stage import Job, Outcome, Request, Stage

STAGE = Stage(name="manifest", kind="manifest", version=1, process="plain")


def sources(config: Config, only: str | None = None) -> dict[str, str | None]:
    """Where the images lie by role: the run's, or those of another source alone (`cluster.data`, `assign.data`)."""
    if only is not None:
        return {"train": only, "unlabelled": None, "test": None}
    return {"train": config.data.train, "unlabelled": config.data.unlabelled, "test": config.data.test}


def plan(config: Config, only: str | None = None) -> Request:
    """Ask for the manifest of the run's data, or of another source, of which nothing is held out.

    The artifact is named by what is found there, so that the same images elsewhere are the same manifest.
    """
    return STAGE.request(
        settings={"hold_out": only is None and config.data.test is None},
        seed=config.seed,
        outside={"sources": sources(config, only), "max_rejected": config.data.max_rejected},
    )


def build(job: Job) -> Outcome:
    """List, hash and check; images known by (uri, size, mtime) are not read again."""
    from data.manifest import make_manifest, read_known, write_known
    from data.schemas import MANIFEST, REJECTED
    from data.tables import write_table

    where = job.request.outside["sources"]
    remembered = job.store.cache("hashes") / f"{digest(where)}.parquet"
    made = make_manifest(
        where["train"],
        where["test"],
        where["unlabelled"],
        seed=job.seed,
        hold_out=job.settings["hold_out"],
        max_rejected=job.request.outside["max_rejected"],
        known=read_known(remembered),
        report=lambda done, total: job.report(done=done, total=total),
        workers=workers(job.compute),
    )
    write_known(remembered, made.known)
    write_table(job.out / "images.parquet", _columns(made.images), MANIFEST)
    write_table(job.out / "rejected.parquet", _columns(made.rejected), REJECTED)
    for note in made.notes:
        job.log(note)
    steady = {name: n for name, n in made.counts.items() if name != "read"}  # how many were remembered is no content
    classes = None if made.classes is None else list(made.classes)
    found: dict[str, Any] = {"parts": made.parts, "counts": steady, "classes": classes, "notes": list(made.notes)}
    content = {**found, "rejected": made.rejected.to_pylist()}
    return Outcome(rows=made.images.num_rows, meta=found, content=content)


class Recall:
    """What a manifest was found to be the last time, so that unchanged sources need no process that lists them.

    The sources are stamped when this is made, before anything is listed: what changes in between is seen next time.

    Args:
        store: that remembers.
        request: for a manifest.

    Raises:
        UserError: a source is missing or none.
    """

    def __init__(self, store: Store, request: Request) -> None:
        from data.sources import open_source

        self.store = store
        places: dict[Split, str | None] = request.outside["sources"]
        self.stamps = [open_source(place, role).stamp() for role, place in sorted(places.items()) if place]
        asked = [request.version, request.settings, request.seed, request.outside["sources"], request.outside["max_rejected"]]  # fmt: skip
        self._path = store.cache("listings") / f"{digest(asked)}.json"

    def manifest(self) -> Artifact | None:
        """The artifact, if every source has the stamp it had then and the artifact is there."""
        with suppress(OSError, ValueError, LookupError, TypeError):  # nothing remembered yet, or damaged: list anew
            known = json.loads(self._path.read_text())
            made = Artifact(kind="manifest", fingerprint=str(known["fingerprint"]))
            if None not in self.stamps and known["stamps"] == self.stamps and self.store.has(made):
                return made
        return None

    def keep(self, made: Artifact) -> None:
        """Remember what was found."""
        if None not in self.stamps:
            write_json(self._path, {"stamps": self.stamps, "fingerprint": made.fingerprint})


def _columns(table: Any) -> dict[str, Any]:
    return {name: table[name].combine_chunks() for name in table.column_names}


def workers(compute: Compute) -> int:
    """Processes for decoding: as configured, or one per core that this process may use."""
    import os

    return compute.workers or len(os.sched_getaffinity(0))


def labelled_classes(meta: dict[str, Any]) -> list[str]:
    """Names of the classes that training labels exist for; empty where there are none."""
    return list(meta["classes"] or []) if meta["counts"]["labelled"] else []
