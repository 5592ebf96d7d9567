"""Manifest: which images there are, checked and hashed; broken ones are listed with the reason."""

from __future__ import annotations

from typing import Any

from data.store import digest
from data.types import Split
from tasks.config import Compute, Config
from tasks.stage import Job, Outcome, Request, Stage

STAGE = Stage(name="manifest", kind="manifest", version=1, process="plain", by_content=True)


def sources(config: Config, only: str | None = None) -> dict[str, str | None]:
    """Where the images lie by role: the run's, or those of another source alone (`cluster.data`, `assign.data`)."""
    if only is not None:
        return {"train": only, "unlabelled": None, "test": None}
    return {"train": config.data.train, "unlabelled": config.data.unlabelled, "test": config.data.test}


def voc_sources(voc: str) -> dict[str, str | None]:
    """Where the images of a folder in VOC's layout lie by role: without sets a fifth is held out for test.

    Raises:
        UserError: it isn't one, or can't be reached.
    """
    from data.voc import VocFolder

    sets = VocFolder(voc, voc.removeprefix("voc:")).sets("test")
    return {"train": voc, "unlabelled": None, "test": None if sets is None else voc}


def plan_voc(config: Config) -> Request:
    """Ask for the manifest of `evaluate.voc`, whose annotations are part of what its labels are hashed from."""
    assert config.evaluate.voc is not None
    where = voc_sources(config.evaluate.voc)
    return STAGE.request(
        settings={"hold_out": where["test"] is None},
        seed=config.seed,
        outside={"sources": where, "max_rejected": config.data.max_rejected},
    )


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


def stamps(request: Request) -> list[str | None]:
    """What changes whenever a source's images may have; None for a source that only listing tells of.

    Raises:
        UserError: a source is missing or none.
    """
    from data.sources import open_source

    places: dict[Split, str | None] = request.outside["sources"]
    return [open_source(place, role).stamp() for role, place in sorted(places.items()) if place]


def _columns(table: Any) -> dict[str, Any]:
    return {name: table[name].combine_chunks() for name in table.column_names}


def workers(compute: Compute) -> int:
    """Processes for decoding: as configured, or one per core that this process may use."""
    import os

    return compute.workers or len(os.sched_getaffinity(0))


def labelled_classes(meta: dict[str, Any]) -> list[str]:
    """Names of the classes that training labels exist for; empty where there are none."""
    return list(meta["classes"] or []) if meta["counts"]["labelled"] else []
