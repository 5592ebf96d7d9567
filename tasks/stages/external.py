"""External: reads the features of the manifest's images from files that were made elsewhere."""

from __future__ import annotations

import json
from itertools import chain

from data.types import Artifact
from models.configs.external import External
from tasks.config import Config
from tasks.job import Job
from tasks.size import Context, Inputs, Size, rows_of_part
from tasks.sources import SPLITS_OF, Part
from tasks.stage import Outcome, Request, Stage, require

STAGE = Stage(name="external", kind="features", version=1, process="plain", by_content=True)


def plan(config: Config, manifest: Artifact, *, part: Part) -> Request:
    """Request the features of train + unlabelled images, or of the test images.

    The artifact is named by the content of the files. The same vectors in another place make the same
    artifact.

    Args:
        config: the run's configuration; its pretext method is `External`.
        manifest: the manifest of the images.
        part: train (with unlabelled) or test.
    """
    assert isinstance(config.pretext, External)
    return STAGE.request(
        settings={"layer": config.pretext.method, "part": part},
        inputs={"manifest": manifest},
        parts=SPLITS_OF[part],
        outside={"features": config.pretext.features},
    )


def stamps(request: Request) -> list[str | None]:
    """A value that changes whenever the files may have changed."""
    from data.external import ExternalFeatures

    return [ExternalFeatures(request.outside["features"]).stamp()]


def size(run: Context, request: Request, inputs: Inputs) -> Size:
    """Estimate the artifact and its cost for a dry run."""
    from data.external import ExternalFeatures

    width = ExternalFeatures(request.outside["features"]).width()
    n = rows_of_part(inputs, request.settings["part"])
    return Size(n, n * (4 * width + 8), width=width)


def build(job: Job) -> Outcome:
    """Hash the files, then join them to the manifest block by block.

    A file with a known (path, size, mtime) is not hashed again.
    """
    from data import schemas
    from data.errors import Interrupted
    from data.external import ExternalFeatures, known_files
    from data.files import write_sealed
    from data.store import digest
    from data.tables import VectorWriter, read_table

    features = ExternalFeatures(job.request.outside["features"])
    stamp = features.stamp()
    remembered = job.store.cache("hashes") / f"{digest(features.spec)}.json"
    files, known = features.content(known_files(remembered))
    write_sealed(remembered, json.dumps(known).encode())
    content = {"files": files}
    if job.has(content):
        return Outcome(rows=0, content=content)
    splits, counts = SPLITS_OF[job.settings["part"]], job.meta("manifest")["counts"]
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
