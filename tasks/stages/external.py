"""External: features that were made elsewhere, taken into the store for the manifest's images."""

from __future__ import annotations

import json
from itertools import chain

from data.types import Artifact
from models.configs import External
from tasks.config import Config
from tasks.stage import Job, Outcome, Request, Stage, require
from tasks.stages.embed import SPLITS, Part

STAGE = Stage(name="external", kind="features", version=1, process="plain", by_content=True)


def plan(config: Config, manifest: Artifact, *, part: Part) -> Request:
    """Ask for the features of train + unlabelled images, or of the test images.

    The artifact is named by what the files hold, so that the same vectors elsewhere are the same features.

    Args:
        config: of the run; its pretext method is `External`.
        manifest: of the images.
        part: which images.
    """
    assert isinstance(config.pretext, External)
    return STAGE.request(
        settings={"layer": config.pretext.method, "part": part},
        inputs={"manifest": manifest},
        parts=SPLITS[part],
        outside={"features": config.pretext.features},
    )


def stamps(request: Request) -> list[str | None]:
    """What changes whenever the files may have."""
    from data.external import ExternalFeatures

    return [ExternalFeatures(request.outside["features"]).stamp()]


def build(job: Job) -> Outcome:
    """Hash the files, those known by (path, size, mtime) from memory; then join them to the manifest, block by block."""
    from data import schemas
    from data.errors import Interrupted
    from data.external import ExternalFeatures
    from data.store import digest, write_json
    from data.tables import VectorWriter, read_table

    features = ExternalFeatures(job.request.outside["features"])
    stamp = features.stamp()
    remembered = job.store.cache("hashes") / f"{digest(features.spec)}.json"
    files, known = features.content(json.loads(remembered.read_text()) if remembered.exists() else {})
    write_json(remembered, known)
    content = {"files": files}
    if job.has(content):
        return Outcome(rows=0, content=content)
    splits, counts = SPLITS[job.settings["part"]], job.meta("manifest")["counts"]
    images = sum(counts[split] for split in splits)
    blocks = features.blocks(read_table(job.path("manifest") / "images.parquet", schemas.MANIFEST), splits)
    first = next(blocks)
    dim = first[1].shape[1]
    model = f"{job.settings['layer']}-{digest(content)}"
    with VectorWriter(job.out, schemas.features(dim, model, job.settings["layer"])) as out:
        for index, vectors in chain([first], blocks):
            if job.interrupted():
                raise Interrupted("stopped while reading features")
            out.write(index, vectors)
            job.report(done=out.rows, total=images)
    require(features.stamp() == stamp, f"{features.spec} changed while it was read; run again")
    return Outcome(rows=images, meta={"rows_computed": 0, "dim": dim, **content}, content=content)
