"""Sound: tests a foreign teacher on some images, and warns if it may have been loaded badly."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from data.types import Artifact
from tasks.config import Config
from tasks.job import Job
from tasks.planning import SOUND, examined
from tasks.size import Context, Inputs, Size, cost_of, images_of, passes
from tasks.sources import sources
from tasks.stage import Outcome, Request, Stage

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

STAGE = Stage(
    name="sound",
    kind="sound",
    version=2,
    process="train",
    columns={"who": "string", "measure": "string", "value": "float64", "error": "float64"},
)
FEW = 20
"""With fewer labelled images, classes tell too little. Then two views of each image are compared instead."""
BATCH = 32


def plan(config: Config, manifest: Artifact, checkpoint: Artifact, labels: Artifact | None = None) -> Request:
    """Request the test of a teacher.

    Args:
        config: the run's configuration.
        manifest: the manifest of the run's images.
        checkpoint: the teacher.
        labels: the drawn labels; None if the run has none.
    """
    return STAGE.request(
        settings={"precision": config.compute.precision, "layer": config.embed.layer},
        inputs={"manifest": manifest, "checkpoint": checkpoint} | ({"labels": labels} if labels else {}),
        parts=("train",) if labels else ("train", "unlabelled"),
        seed=config.seed,
        outside={"sources": sources(config)},
    )


def size(run: Context, request: Request, inputs: Inputs) -> Size:
    """Estimate the artifact and its cost for a dry run."""
    cost = cost_of(inputs)
    seen = examined(images_of(inputs).all)
    return Size(10, 2e3, seen * cost.forward, work=(passes(run, cost, seen),))


def build(job: Job) -> Outcome:
    """Compare the teacher with its random self, with other normalisations and with its own layers."""
    import numpy as np
    import torch

    from data.draws import Draws, key, permutation
    from data.errors import Interrupted
    from models.augment import centre, random_view
    from models.configs.shared import Views
    from models.device import resolve_device
    from models.evaluation.soundness import examine
    from models.saved import load
    from tasks.rows import drawn_rows, manifest_rows

    network = load(job.path("checkpoint")).to(resolve_device(job.compute.device)).eval()
    label: NDArray[np.int64] | None = None
    if "labels" in job.request.inputs:
        index, label = drawn_rows(job.path("labels"))
        often = np.bincount(label)[label] > 1
        index, label = index[often], label[often]
        if len(index) < FEW or len(np.unique(label)) < 2:
            label = None
    if label is None:
        index, _ = manifest_rows(job.path("manifest"), ("train", "unlabelled"))
    some = np.sort(permutation(key(job.seed, "sound"), len(index))[:SOUND])
    index, label = index[some], None if label is None else label[some]
    images, device = job.images_for(network), network.mean.device

    def show(view: str | None) -> Iterator[torch.Tensor]:
        for start in range(0, len(index), BATCH):
            if job.interrupted():
                raise Interrupted("stopped while looking at the teacher")
            part = index[start : start + BATCH]
            pixels = torch.from_numpy(images.read(part)).to(device)
            if view is None:
                yield centre(pixels, network.image_size)
            else:
                yield random_view(
                    pixels, Draws(job.seed, "sound", 0, part), view, Views(), network.image_size
                )

    layer = network.last_layer if job.settings["layer"] == "last" else job.settings["layer"]
    found = examine(network, show, label, layer)
    for text in found.warnings:
        job.log(f"warning: {text}")
    columns = {name: [row[at] for row in found.rows] for at, name in enumerate(STAGE.columns or {})}
    rows = job.write("sound.parquet", columns)
    return Outcome(rows=rows, meta={"warnings": found.warnings, "images": len(index)})
