"""Embed: features of one layer for every image, streamed to Parquet; rows that an earlier artifact has are taken over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from data.types import Artifact
from tasks.config import Config
from tasks.manifest import sources
from tasks.stage import Job, Outcome, Request, Stage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

STAGE = Stage(name="embed", kind="features", version=1, process="train")

Part = Literal["train", "test"]
_SPLITS: dict[Part, tuple[str, ...]] = {"train": ("train", "unlabelled"), "test": ("test",)}


def plan(
    config: Config, manifest: Artifact, checkpoint: Artifact, *, part: Part, layer: str, only: str | None = None
) -> Request:
    """Ask for features of train + unlabelled images, or of the test images.

    Args:
        config: of the run.
        manifest: of the images.
        checkpoint: the network.
        part: which images.
        layer: of the network; see `Embed.layer`.
        only: the manifest's source, if it is another than the run's.
    """
    settings = {
        "layer": layer,
        "part": part,
        "image_size": config.data.image_size,
        "precision": config.compute.precision,
    }
    return STAGE.request(
        settings=settings,
        inputs={"manifest": manifest, "checkpoint": checkpoint},
        parts=_SPLITS[part],
        outside={"sources": sources(config, only), "batch_size": config.embed.batch_size},
    )


def build(job: Job) -> Outcome:
    """Take over what an earlier artifact has, then stream the other images through the network, block by block."""
    import numpy as np

    from data import schemas
    from data.errors import Interrupted
    from data.tables import VectorWriter, iterate_vectors
    from models.engine import resolve_device, resolve_precision
    from models.inference import run
    from tasks import training

    wish = job.settings
    index, _ = training.manifest_rows(job.path("manifest"), _SPLITS[wish["part"]])
    network = training.load(job.path("checkpoint"))
    device = resolve_device(job.compute.device)
    precision = resolve_precision(wish["precision"], device)
    layer, images = wish["layer"], job.images(wish["image_size"])
    dim = network.layer_dim(layer)
    schema = schemas.features(dim, job.request.inputs["checkpoint"].fingerprint, layer)
    earlier = _earlier(job, index)
    taken = np.zeros(0, np.int64)
    with VectorWriter(job.out, schema) as out:
        if earlier is not None:
            folder, new_of = earlier
            taken = np.sort(np.fromiter(new_of.values(), np.int64, len(new_of)))
            for old, block in iterate_vectors(folder):
                kept = [row for row, i in enumerate(old.tolist()) if i in new_of]
                if kept:
                    out.write(np.array([new_of[i] for i in old[kept].tolist()], np.int64), block[kept])
        missing = index[~np.isin(index, taken)]
        for block_index, block in run(
            network,
            lambda x: network.features(x, layer),
            images.read,
            missing,
            batch_size=job.request.outside["batch_size"],
            size=wish["image_size"],
            device=device,
            precision=precision,
        ):
            if job.interrupted():
                raise Interrupted("stopped while embedding")
            out.write(block_index, block)
            job.report(done=out.rows, total=len(index))
    found = {"rows_computed": len(missing), "dim": dim, "device": str(device)}
    return Outcome(rows=len(index), meta={**found, "precision": precision})


def _earlier(job: Job, index: NDArray[np.int64]) -> tuple[Path, dict[int, int]] | None:
    """The artifact of the same network, layer and size that has the most of these images, told by content.

    Returns:
        Its folder, and its index -> index in this manifest; None if no artifact has any.
    """
    import numpy as np

    from data.schemas import MANIFEST
    from data.tables import column, read_table

    def contents(folder: Path) -> tuple[NDArray[np.int64], NDArray[np.str_]]:
        table = read_table(folder / "images.parquet", MANIFEST)
        return column(table, "index"), column(table, "sha256").astype(str)

    here, sha = contents(job.path("manifest"))
    wanted = dict(zip(sha[np.isin(here, index)].tolist(), here[np.isin(here, index)].tolist(), strict=True))
    best: tuple[Path, dict[int, int]] | None = None
    for path in sorted((job.store.root / "artifacts" / "features").glob("*/meta.json")):
        meta = json.loads(path.read_text())
        same = all(meta["config"].get(name) == job.settings[name] for name in ("layer", "image_size", "precision"))
        if not same or meta["inputs"]["checkpoint"] != job.request.inputs["checkpoint"].model_dump():
            continue
        manifest = job.store.folder(Artifact.model_validate(meta["inputs"]["manifest"]))
        if not (manifest / "images.parquet").exists():
            continue
        theirs, their_sha = contents(manifest)
        splits = dict(zip(theirs.tolist(), column(read_table(manifest / "images.parquet"), "split"), strict=True))
        found: dict[str, int] = {}
        for i, s in zip(theirs.tolist(), their_sha.tolist(), strict=True):
            if s in wanted and splits[i] in _SPLITS[meta["config"]["part"]]:
                found.setdefault(s, i)
        if found and (best is None or len(found) > len(best[1])):
            best = path.parent, {i: wanted[s] for s, i in found.items()}
    return best
