"""Compute features of some images in memory, for stages of the `train` process."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.configs.shared import Views
from models.device import OF_FEATURES, resolve_device
from models.inference import augmented, run
from models.network import Network
from tasks.job import Job


def embed(
    job: Job, network: Network, index: NDArray[np.int64], layer: str, size: int, view: str | None = None
) -> NDArray[np.float32]:
    """Compute one layer of a network for some images, in float32.

    Args:
        job: the stage's job.
        network: the network.
        index: (N,) int64 indices of the images.
        layer: name of the layer.
        size: side of the images that the network sees, px.
        view: name of a random view with the usual augmentations; None: the centre crop.

    Returns:
        (N, D) float32.
    """
    device = resolve_device(job.compute.device)
    blocks = run(
        network,
        lambda x: network.features(x, layer),
        job.images(size).read,
        index,
        batch_size=512,
        size=size,
        device=device,
        precision=OF_FEATURES,
        views=None if view is None else augmented(Views(), 1, 0, view, size),
    )
    return np.concatenate([block for _, block in blocks])
