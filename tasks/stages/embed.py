"""Embed: computes features of every image in float32, and reuses rows of an earlier artifact.

The features are one layer of a network. If no network was trained, a descriptor computes them from the
pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from data.errors import ConfigError
from data.types import Artifact
from models.configs import PRETEXT
from models.work import Describe, Portion
from tasks.config import Config
from tasks.earlier import Candidate, Rows, most_rows, others
from tasks.job import Job
from tasks.size import Context, Inputs, Size, chores, cost_of, decoded, images_of, passes, rows_of_part
from tasks.sources import SPLITS_OF, Part, sources
from tasks.stage import Outcome, Request, Stage, require

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

STAGE = Stage(name="embed", kind="features", version=1, process="train")


def plan(
    config: Config,
    manifest: Artifact,
    checkpoint: Artifact,
    *,
    part: Part,
    layer: str,
    only: str | None = None,
    own_input: bool = False,
) -> Request:
    """Request a network's features of train + unlabelled images, or of the test images.

    Args:
        config: the run's configuration.
        manifest: the manifest of the images.
        checkpoint: the network.
        part: train (with unlabelled) or test.
        layer: layer of the network; see `Embed.layer`.
        only: the manifest's source, if it differs from the run's.
        own_input: whether the network brings its own size. Then the run's size is not part of the request,
            and another size of the student computes nothing again.
    """
    settings = {
        "layer": layer,
        "part": part,
        "image_size": None if own_input else config.data.image_size,
        "precision": config.compute.precision,
    }
    return STAGE.request(
        settings=settings,
        inputs={"manifest": manifest, "checkpoint": checkpoint},
        parts=SPLITS_OF[part],
        outside={"sources": sources(config, only), "batch_size": config.embed.batch_size},
    )


def plan_described(config: Config, manifest: Artifact, *, part: Part, only: str | None = None) -> Request:
    """Request a descriptor's features of train + unlabelled images, or of the test images.

    Args:
        config: the run's configuration; its pretext method is a `Descriptor`.
        manifest: the manifest of the images.
        part: train (with unlabelled) or test.
        only: the manifest's source, if it differs from the run's.
    """
    settings = {
        "pretext": config.pretext.settings(config.data.image_size),
        "layer": config.pretext.method,
        "part": part,
        "image_size": config.data.image_size,
    }
    return STAGE.request(
        settings=settings,
        inputs={"manifest": manifest},
        parts=SPLITS_OF[part],
        outside={"sources": sources(config, only), "batch_size": config.embed.batch_size},
    )


def size(run: Context, request: Request, inputs: Inputs) -> Size:
    """Estimate the artifact and its cost for a dry run."""
    n, forward = rows_of_part(inputs, request.settings["part"]), 0.0
    images, side = images_of(inputs), None
    work: Portion
    if "checkpoint" in inputs:
        from models.device import OF_FEATURES

        cost, layer = cost_of(inputs), request.settings["layer"]
        if layer not in cost.widths:
            known = ", ".join(cost.widths)
            raise ConfigError(f"embed.layer = {layer}: the teacher has no such layer; choose one of {known}")
        width, forward, side = cost.widths[layer], cost.forward, cost.shape.resized
        work = passes(run, cost, n, precision=OF_FEATURES)
    else:
        from models.cost import descriptor_width

        run.assume("GPU: the cost of descriptors is not counted")
        descriptor: Any = run.config.pretext
        size = request.settings["image_size"]
        width = descriptor_width(descriptor, size)
        work = Portion(Describe(settings=request.settings["pretext"], image_size=size), n)
    seconds = decoded(run, images, n, side)
    if side is not None and not seconds and request.settings["part"] == "train":
        seconds = (images.all + images.test) * run.decoding  # the squares that only this network takes
    return Size(n, n * (4 * width + 8), n * forward, width=width, seconds=seconds, work=(work, chores(0.05)))


def build(job: Job) -> Outcome:
    """Reuse the rows of an earlier artifact, then compute the features of the other images block by block."""
    import numpy as np

    from data import schemas
    from data.errors import Interrupted
    from data.tables import VectorWriter, iterate_vectors
    from tasks.rows import manifest_rows

    index, _ = manifest_rows(job.path("manifest"), SPLITS_OF[job.settings["part"]])
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
        rows=len(index),  # a part that lacks rows is refused
        meta={"rows_computed": len(missing), "dim": source.dim, "layer": source.layer, **source.meta},
    )


@dataclass(frozen=True)
class _Source:
    """Where features come from.

    Attributes:
        model: name of the model in the schema's metadata.
        layer: name of the layer in the schema's metadata; `last` is already resolved.
        dim: D, the length of a vector.
        blocks: (N,) indices -> blocks of indices (B,) and features (B, D).
        meta: more keys for meta.json.
    """

    model: str
    layer: str
    dim: int
    blocks: Callable[[NDArray[np.int64]], Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]]
    meta: dict[str, Any]


def _network(job: Job) -> _Source:
    from functools import partial

    from models.device import OF_FEATURES, resolve_device
    from models.inference import run
    from models.saved import load

    settings, network = job.settings, load(job.path("checkpoint"))
    layer = network.last_layer if settings["layer"] == "last" else settings["layer"]
    device = resolve_device(job.compute.device)
    blocks = partial(
        run,
        network,
        lambda x: network.features(x, layer),
        job.images_for(network).read,
        batch_size=job.request.outside["batch_size"],
        size=network.image_size,
        device=device,
        precision=OF_FEATURES,
    )
    model, meta = (
        job.request.inputs["checkpoint"].fingerprint,
        {"device": str(device), "precision": OF_FEATURES},
    )
    return _Source(model, layer, network.layer_dim(layer), blocks, meta)


def _descriptor(job: Job) -> _Source:
    from contextlib import closing

    import numpy as np
    import torch

    from data.preprocessing import first_of_centre
    from models.device import resolve_device
    from models.prefetch import prefetch

    given, size, batch_size = (
        job.settings["pretext"],
        job.settings["image_size"],
        job.request.outside["batch_size"],
    )
    config: Any = PRETEXT[given["method"]].model_validate(given)
    descriptor, images, device = (
        resolve_name(config.descriptor),
        job.images(size),
        resolve_device(job.compute.device),
    )
    dim = descriptor(torch.zeros(1, size, size, 3, dtype=torch.uint8, device=device), config).shape[1]

    def read(part: NDArray[np.int64]) -> tuple[NDArray[np.int64], torch.Tensor]:
        pixels = images.read(part)
        start = first_of_centre(pixels.shape[1], size)  # the same central square that networks see
        return part, torch.from_numpy(
            np.ascontiguousarray(pixels[:, start : start + size, start : start + size])
        )

    def blocks(index: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        parts = (index[start : start + batch_size] for start in range(0, len(index), batch_size))
        with closing(prefetch(read, parts)) as batches:
            for part, pixels in batches:
                vectors = descriptor(pixels.to(device), config).cpu().numpy()
                right = vectors.shape == (len(part), dim) and bool(np.isfinite(vectors).all())
                require(
                    right,
                    f"embed: {config.descriptor} must return finite values of shape {(len(part), dim)} for "
                    f"{len(part)} images; it returned shape {vectors.shape} or values that are not finite",
                )
                yield part, vectors

    return _Source(given["method"], job.settings["layer"], dim, blocks, {"device": str(device)})


def _earlier(job: Job) -> Rows | None:
    """Find reusable rows: an artifact whose settings and inputs are the same, except for the images."""
    from models.device import OF_FEATURES

    def way(settings: dict[str, Any], inputs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        others = {name: value for name, value in settings.items() if name not in ("part", "seed")}
        return others, {name: given for name, given in inputs.items() if name != "manifest"}

    request = job.request
    same = way(request.settings, {name: given.model_dump() for name, given in request.inputs.items()})
    candidates = []
    for artifact, meta in others(job, STAGE.kind):
        version = meta["stage"], meta["version"]
        # Earlier versions computed in bf16 where the hardware does. Such rows would not fit to new ones.
        fits = meta.get("precision", OF_FEATURES) == OF_FEATURES
        stage = (request.stage, request.version)
        if fits and version == stage and way(meta["config"], meta["inputs"]) == same:
            manifest = Artifact.model_validate(meta["inputs"]["manifest"])
            candidates.append(Candidate(artifact, manifest, SPLITS_OF[meta["config"]["part"]]))
    return most_rows(job, request.inputs["manifest"], SPLITS_OF[job.settings["part"]], candidates)
