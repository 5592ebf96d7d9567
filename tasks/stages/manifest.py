"""Manifest: lists, checks and hashes the images. Broken images are listed with the reason."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from data.reading import KEYS, Reading, recorded_in
from data.store import digest
from data.types import Artifact, Split
from tasks.config import Config
from tasks.job import Job
from tasks.size import Context, Inputs, Size, chores
from tasks.sources import sources, voc_sources
from tasks.stage import Outcome, Request, Stage

SQUARES = 1.5
"""Time to read an image, compare it with others and store its square, over the time to read and decode it."""
STAGE = Stage(name="manifest", kind="manifest", version=2, process="plain", by_content=True)


def plan_voc(config: Config, *, like: Artifact | None = None) -> Request:
    """Request the manifest of `evaluate.voc`. The hash of its labels includes the annotations.

    Args:
        config: the run's configuration.
        like: as for `plan`.
    """
    assert config.evaluate.voc is not None
    where = voc_sources(config.evaluate.voc)
    return STAGE.request(
        settings={"hold_out": where["test"] is None},
        seed=config.seed,
        outside={"sources": where, "labels": None, **_outside(config, like)},
    )


def plan(config: Config, only: str | None = None, *, like: Artifact | None = None) -> Request:
    """Request the manifest of the run's data, or of another source.

    The artifact is named by the content of the images. The same images in another place make the same
    artifact.

    Args:
        config: the run's configuration.
        only: another source to list instead; none of its images are held out for the test.
        like: another manifest, or a model. If it has a scale of wide images and bands, they are used
            here too, instead of choosing another scale.
    """
    return STAGE.request(
        settings={"hold_out": only is None and config.data.test is None},
        seed=config.seed,
        outside={
            "sources": sources(config, only),
            "labels": config.data.labels if only is None else None,
            **_outside(config, like),
        },
    )


def _outside(config: Config, like: Artifact | None) -> dict[str, Any]:
    """What decides the content besides the sources. The artifact is named by the content, not by these."""
    data = config.data
    return {
        "max_rejected": data.max_rejected,
        "leaks": data.leaks,
        "image_size": data.image_size,
        "reading": data.model_dump(include={"value_range", "bands", "max_pixels"}),
        "like": None if like is None else like.model_dump(),
    }


def size(run: Context, request: Request, inputs: Inputs) -> Size:
    """Estimate the artifact and its cost for a dry run."""
    images = run.count(request)
    n = images.all + images.test
    processes = run.config.compute.decoders if n >= 2048 else 1  # few images are read by one process
    seconds = run.listing + SQUARES * n * run.decoding / processes
    return Size(n, 110 * n, images=images, seconds=seconds, work=(chores(0.2 + 1e-4 * n),))


def build(job: Job) -> Outcome:
    """List, hash and check the images. Images with a known (uri, size, mtime) are not read again."""
    from data.held_out import read_sides, write_sides
    from data.manifest import make_manifest
    from data.measured import read_known, write_known
    from data.packs import Shape
    from data.preprocessing import stored_size
    from data.schemas import MANIFEST, REJECTED, TWINS
    from data.tables import write_table

    where, reading = job.request.outside["sources"], _reading(job)
    # Which images are refused depends on bands and size. How values are scaled is not remembered.
    measured = Reading(None, reading.bands, reading.max_pixels)
    key = where if measured == Reading() else {**where, **asdict(measured)}
    remembered = job.store.cache("hashes") / f"{digest(key)}.parquet"
    sides = job.store.cache("held-out") / f"{digest([where, job.seed])}.parquet"
    made = make_manifest(
        where["train"],
        where["test"],
        where["unlabelled"],
        seed=job.seed,
        hold_out=job.settings["hold_out"],
        max_rejected=job.request.outside["max_rejected"],
        labels=job.request.outside["labels"],
        known=read_known(remembered),
        held_out=read_sides(sides),
        report=lambda done, total: job.report(done=done, total=total),
        workers=job.compute.decoders,
        reading=reading,
        leaks=job.request.outside["leaks"],
        compared=job.store.cache("twins"),
        packs=job.store.cache("images"),
        shape=Shape(stored_size(job.request.outside["image_size"]), reading=measured),
    )
    write_known(remembered, made.known)
    if made.held_out:
        write_sides(sides, made.held_out)
    write_table(job.out / "images.parquet", _columns(made.images), MANIFEST)
    write_table(job.out / "rejected.parquet", _columns(made.rejected), REJECTED)
    write_table(job.out / "twins.parquet", _columns(made.twins), TWINS)
    # "read" depends on which images were remembered, not on the images, so it is not part of the content.
    steady = {name: n for name, n in made.counts.items() if name != "read"}
    classes = None if made.classes is None else list(made.classes)
    found: dict[str, Any] = {
        "parts": made.parts,
        "counts": steady,
        "classes": classes,
        "notes": list(made.notes),
        "guesses": list(made.guesses),
        "understood": made.understood,
        **made.reading,
    }
    content = {**found, "rejected": made.rejected.to_pylist()}
    return Outcome(rows=made.images.num_rows, meta=found, content=content)


def _reading(job: Job) -> Reading:
    """What the configuration says, or what `like` says of scale and bands."""
    asked, like = job.request.outside["reading"], job.request.outside["like"]
    told: dict[str, Any] = {}
    if like is not None:
        from data.checkpoints import read_description

        artifact = Artifact.model_validate(like)
        manifest = artifact.kind == "manifest"
        told = job.store.meta(artifact) if manifest else read_description(job.store.whole(artifact))
    values = {key: told.get(key) or asked[key] for key in KEYS}
    return recorded_in(values, asked["max_pixels"])


def stamps(request: Request) -> list[str | None]:
    """One value per source that changes whenever its images may have changed.

    The value is None if only listing the source can tell.

    Raises:
        UserError: a source is missing or is not a source.
    """
    from data.own_labels import stamp
    from data.sources import open_source

    places: dict[Split, str | None] = request.outside["sources"]
    found = [open_source(place, role).stamp() for role, place in sorted(places.items()) if place]
    labels = request.outside["labels"]
    return found if labels is None else [*found, stamp(labels)]


def _columns(table: Any) -> dict[str, Any]:
    return {name: table[name].combine_chunks() for name in table.column_names}
