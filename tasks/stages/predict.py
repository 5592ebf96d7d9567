"""Predict: computes class probabilities for all train and unlabelled images with the fine-tuned networks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from data.types import Artifact
from models.configs.shared import Views
from tasks.config import Config
from tasks.job import Job
from tasks.size import Context, Inputs, Size, cost_of, decoded, images_of, passes, products
from tasks.sources import sources
from tasks.stage import Outcome, Request, Stage

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from models.network import Network

STAGE = Stage(name="predict", kind="probabilities", version=2, process="train")


def plan(
    config: Config,
    manifest: Artifact,
    checkpoint: Artifact,
    student: Artifact | None = None,
    features: Artifact | None = None,
) -> Request:
    """Request the probabilities of train + unlabelled images.

    Random views use the augmentations of fine-tuning.

    Args:
        config: the run's configuration.
        manifest: the manifest of the run's images.
        checkpoint: the fine-tuned teacher, or the fine-tuned student if no teacher was trained.
        student: the fine-tuned student, if its probabilities are averaged with the teacher's.
        features: the outputs of the checkpoint's last layer below the classifier for all images, if they are
            known. Then only the classifier is computed, on the centre views.
    """
    views = config.predict.views
    tuned = frozenset(type(config.finetune).model_fields) - frozenset(Views.model_fields)
    settings = {
        "views": views,
        "view": config.finetune.settings(config.data.image_size, exclude=tuned) if views > 1 else None,
        "mirror": config.predict.mirror,
        "image_size": config.data.image_size,
        "precision": config.compute.precision,
    }
    inputs = {"manifest": manifest, "checkpoint": checkpoint}
    inputs |= {"student": student} if student else {}
    inputs |= {"features": features} if features else {}
    return STAGE.request(
        settings=settings,
        inputs=inputs,
        parts=("train", "unlabelled"),
        seed=config.seed if views > 1 else None,
        outside={"sources": sources(config), "batch_size": config.embed.batch_size},
    )


def size(run: Context, request: Request, inputs: Inputs) -> Size:
    """Estimate the artifact and its cost for a dry run."""
    images, cost = images_of(inputs), cost_of(inputs)
    n, classes = images.all, images.classes
    if "features" in request.inputs:
        operations = 2.0 * n * inputs["features"].width * classes
        return Size(n, n * (4 * classes + 8), operations, width=classes, work=(products(operations),))
    asked = request.settings
    seen = n * (2 if asked["mirror"] and asked["views"] == 1 else asked["views"])
    networks = [cost_of(inputs, name) for name in ("checkpoint", "student") if name in inputs]
    work = tuple(passes(run, each, seen, asked["view"]) for each in networks)
    return Size(
        n,
        n * (4 * classes + 8),
        n * cost.forward * asked["views"],
        width=classes,
        seconds=decoded(run, images, n, cost.shape.resized),
        work=work,
    )


def build(job: Job) -> Outcome:
    """Stream the images through the networks, and average the probabilities over networks and views."""
    import numpy as np
    import torch

    from data import schemas
    from data.errors import Interrupted
    from data.tables import VectorWriter, iterate_vectors
    from models.device import resolve_device
    from models.saved import load
    from tasks.rows import manifest_rows

    index, _ = manifest_rows(job.path("manifest"), ("train", "unlabelled"))
    network = load(job.path("checkpoint"))
    networks = [network, *(load(job.path(name)) for name in ("student",) if name in job.request.inputs)]
    classes = len(job.meta("manifest")["classes"])
    if "features" in job.request.inputs and job.meta("features")["layer"] == network.last_layer:
        classifier = network.classifier
        assert classifier is not None
        with torch.no_grad(), VectorWriter(job.out, schemas.probabilities(classes)) as out:
            for at, x in iterate_vectors(job.path("features")):
                out.write(at, torch.softmax(classifier(torch.from_numpy(x.copy())), dim=1).numpy())
        return Outcome(rows=out.rows, meta={"classes": job.meta("manifest")["classes"], "device": "cpu"})
    device = resolve_device(job.compute.device)
    alike: dict[Any, list[Network]] = {}
    for each in networks:  # networks that see the same pixels share them
        alike.setdefault(each.rule.shape, []).append(each)
    streams = [_stream(job, members, index, device) for members in alike.values()]
    shares = [len(members) / len(networks) for members in alike.values()]
    with VectorWriter(job.out, schemas.probabilities(classes)) as out:
        for blocks in zip(*streams, strict=True):
            if job.interrupted():
                raise Interrupted("stopped while predicting")
            block = sum(share * found for share, (_, found) in zip(shares, blocks, strict=True))
            out.write(blocks[0][0], block / np.maximum(block.sum(1, keepdims=True), 1e-12))
            job.report(done=out.rows, total=len(index))
    return Outcome(rows=len(index), meta={"classes": job.meta("manifest")["classes"], "device": str(device)})


def _stream(
    job: Job, networks: list[Network], index: NDArray[np.int64], device: torch.device
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """The mean probabilities of networks that see the same pixels, block by block."""
    import torch

    from models.device import resolve_precision
    from models.inference import augmented, mirrored, run

    settings, size = job.settings, networks[0].image_size
    views = mirrored(size) if settings["mirror"] else None
    if settings["views"] > 1:
        drawn = Views.model_validate(settings["view"])
        if networks[0].own_input:  # the view's size in px is for the run's own networks
            drawn = drawn.model_copy(update={"view_size": None})
        views = augmented(drawn, settings["views"], job.seed, "predict", size)

    def probabilities(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.softmax(network(x).float(), dim=1) for network in networks]).mean(dim=0)

    return run(
        torch.nn.ModuleList(networks),
        probabilities,
        job.images_for(*networks).read,
        index,
        batch_size=job.request.outside["batch_size"],
        size=size,
        device=device,
        precision=resolve_precision(settings["precision"], device),
        views=views,
    )
