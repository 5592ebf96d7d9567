"""Compute features and answers for some images in memory, for stages of the `train` process."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.configs.shared import Views
from models.device import OF_FEATURES, resolve_device
from models.export.answering import batches
from models.export.given import is_exported
from models.inference import augmented, run
from models.network import Network
from models.opened import open_model
from models.saved import load
from tasks.job import Job


def embed(
    job: Job, network: Network, index: NDArray[np.int64], layer: str, view: str | None = None
) -> NDArray[np.float32]:
    """Compute one layer of a network for some images, in float32. It sees them in its own size.

    Args:
        job: the stage's job.
        network: the network.
        index: (N,) int64 indices of the images.
        layer: name of the layer.
        view: name of a random view with the usual augmentations; None: the centre crop.

    Returns:
        (N, D) float32.
    """
    device, size = resolve_device(job.compute.device), network.image_size
    blocks = run(
        network,
        lambda x: network.features(x, layer),
        job.images_for(network).read,
        index,
        batch_size=512,
        size=size,
        device=device,
        precision=OF_FEATURES,
        views=None if view is None else augmented(Views(), 1, 0, view, size),
    )
    return np.concatenate([block for _, block in blocks])


def logits(job: Job, index: NDArray[np.int64]) -> NDArray[np.float32]:
    """Compute what the classifier of a job's model says of some images.

    Args:
        job: the stage's job. Its input `checkpoint` is a checkpoint, or an exported file that was adopted.
        index: (N,) int64 indices of the images, N >= 1.

    Returns:
        (N, K) float32. Of an exported file, softmax(logits / temperature) are the probabilities that it gave.
    """
    folder = job.path("checkpoint")
    if job.request.inputs["checkpoint"].kind == "checkpoint":
        return embed(job, load(folder), index, "logits")
    model = open_model(next(place for place in folder.iterdir() if is_exported(place)))
    images = job.images_for(model)
    return np.concatenate([model.logits(images.read(some)) for some in batches(index)])
