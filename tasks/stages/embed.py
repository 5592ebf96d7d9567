"""Embed: features of every image, streamed to Parquet; rows that an earlier artifact has are taken over.

They are one layer of a network, or what a descriptor makes of the pixels where no network was trained.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from data.types import Artifact
from models.configs import PRETEXT
from tasks.config import Config
from tasks.earlier import Candidate, Rows, most_rows
from tasks.stage import Job, Outcome, Request, Stage, require
from tasks.stages.manifest import sources

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

STAGE = Stage(name="embed", kind="features", version=1, process="train")

Part = Literal["train", "test"]
SPLITS: dict[Part, tuple[str, ...]] = {"train": ("train", "unlabelled"), "test": ("test",)}


def plan(
    config: Config, manifest: Artifact, checkpoint: Artifact, *, part: Part, layer: str, only: str | None = None
) -> Request:
    """Ask for a network's features of train + unlabelled images, or of the test images.

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
        parts=SPLITS[part],
        outside={"sources": sources(config, only), "batch_size": config.embed.batch_size},
    )


def plan_described(config: Config, manifest: Artifact, *, part: Part, only: str | None = None) -> Request:
    """Ask for what the pretext method's descriptor makes of train + unlabelled images, or of the test images.

    Args:
        config: of the run; its pretext method is a `Descriptor`.
        manifest: of the images.
        part: which images.
        only: the manifest's source, if it is another than the run's.
    """
    settings = {
        "pretext": config.pretext.model_dump(),
        "layer": config.pretext.method,
        "part": part,
        "image_size": config.data.image_size,
    }
    return STAGE.request(
        settings=settings,
        inputs={"manifest": manifest},
        parts=SPLITS[part],
        outside={"sources": sources(config, only), "batch_size": config.embed.batch_size},
    )


def build(job: Job) -> Outcome:
    """Take over what an earlier artifact has, then make the features of the other images, block by block."""
    import numpy as np

    from data import schemas
    from data.errors import Interrupted
    from data.tables import VectorWriter, iterate_vectors
    from tasks import training

    index, _ = training.manifest_rows(job.path("manifest"), SPLITS[job.settings["part"]])
    source = _network(job) if "checkpoint" in job.request.inputs else _descriptor(job)
    schema = schemas.features(source.dim, source.model, source.layer)
    earlier = _earlier(job)
    taken = np.zeros(0, np.int64)
    with VectorWriter(job.out, schema) as out:
        if earlier is not None:
            taken, new_of = earlier.taken, earlier.index_of
            for old, block in iterate_vectors(earlier.folder):
                kept = [row for row, i in enumerate(old.tolist()) if i in new_of]
                if kept:
                    out.write(np.array([new_of[i] for i in old[kept].tolist()], np.int64), block[kept])
        missing = index[~np.isin(index, taken)]
        for block_index, block in source.blocks(missing):
            if job.interrupted():
                raise Interrupted("stopped while embedding")
            out.write(block_index, block)
            job.report(done=out.rows, total=len(index))
    return Outcome(
        rows=len(index), meta={"rows_computed": len(missing), "dim": source.dim, "layer": source.layer, **source.meta}
    )


@dataclass(frozen=True)
class _Source:
    """Where features come from.

    Attributes:
        model: its name in the schema's metadata.
        layer: the same; where `last` was asked for, the one that this is.
        dim: D.
        blocks: (N,) index -> index (B,) and features (B, D) of some images after the other.
        meta: for meta.json.
    """

    model: str
    layer: str
    dim: int
    blocks: Callable[[NDArray[np.int64]], Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]]
    meta: dict[str, Any]


def _network(job: Job) -> _Source:
    from functools import partial

    from models.engine import resolve_device, resolve_precision
    from models.inference import run
    from tasks import training

    wish, network = job.settings, training.load(job.path("checkpoint"))
    layer = network.last_layer if wish["layer"] == "last" else wish["layer"]
    device = resolve_device(job.compute.device)
    precision = resolve_precision(wish["precision"], device)
    blocks = partial(
        run,
        network,
        lambda x: network.features(x, layer),
        job.images(wish["image_size"]).read,
        batch_size=job.request.outside["batch_size"],
        size=wish["image_size"],
        device=device,
        precision=precision,
    )
    model, meta = job.request.inputs["checkpoint"].fingerprint, {"device": str(device), "precision": precision}
    return _Source(model, layer, network.layer_dim(layer), blocks, meta)


def _descriptor(job: Job) -> _Source:
    from contextlib import closing

    import numpy as np
    import torch

    from models.engine import resolve_device
    from models.methods.pretext import trainer
    from models.prefetch import prefetch

    given, size, batch_size = job.settings["pretext"], job.settings["image_size"], job.request.outside["batch_size"]
    config: Any = PRETEXT[given["method"]].model_validate(given)
    descriptor, images, device = trainer(config.descriptor), job.images(size), resolve_device(job.compute.device)
    dim = descriptor(torch.zeros(1, size, size, 3, dtype=torch.uint8, device=device), config).shape[1]

    def read(part: NDArray[np.int64]) -> tuple[NDArray[np.int64], torch.Tensor]:
        pixels = images.read(part)
        start = round((pixels.shape[1] - size) / 2)  # the same central square that networks see
        return part, torch.from_numpy(np.ascontiguousarray(pixels[:, start : start + size, start : start + size]))

    def blocks(index: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        parts = (index[start : start + batch_size] for start in range(0, len(index), batch_size))
        with closing(prefetch(read, parts)) as batches:
            for part, pixels in batches:
                vectors = descriptor(pixels.to(device), config).cpu().numpy()
                right = vectors.shape == (len(part), dim) and bool(np.isfinite(vectors).all())
                require(
                    right,
                    f"embed: {config.descriptor} made {vectors.shape} of {len(part)} images, not {(len(part), dim)}, "
                    "or values that are not finite",
                )
                yield part, vectors

    return _Source(given["method"], job.settings["layer"], dim, blocks, {"device": str(device)})


def _earlier(job: Job) -> Rows | None:
    """Rows of an artifact made in the same way: all but the images is equal."""

    def way(settings: dict[str, Any], inputs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        others = {name: value for name, value in settings.items() if name not in ("part", "seed")}
        return others, {name: given for name, given in inputs.items() if name != "manifest"}

    request = job.request
    same = way(request.settings, {name: given.model_dump() for name, given in request.inputs.items()})
    candidates = []
    for path in (job.store.root / "artifacts" / "features").glob("*/meta.json"):
        meta = json.loads(path.read_text())
        version = meta["stage"], meta["version"]
        if version == (request.stage, request.version) and way(meta["config"], meta["inputs"]) == same:
            manifest = Artifact.model_validate(meta["inputs"]["manifest"])
            candidates.append(Candidate(path, manifest, SPLITS[meta["config"]["part"]]))
    return most_rows(job.store, request.inputs["manifest"], SPLITS[job.settings["part"]], candidates)
