"""Outputs of a network for many images, as a stream: in bounded memory and without gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from data.draws import Draws
from models.augment import centre, random_view
from models.configs.shared import Views
from models.device import Precision
from models.prefetch import prefetch

Index = NDArray[np.int64]
MakeViews = Callable[[Tensor, Index], Iterable[Tensor]]
"""(B, S, S, 3) uint8 images and their index -> views (B, 3, s, s) float32, whose outputs are averaged."""


def run(
    network: nn.Module,
    output: Callable[[Tensor], Tensor],
    images: Callable[[Index], NDArray[np.uint8]],
    index: Index,
    *,
    batch_size: int,
    device: torch.device,
    precision: Precision,
    size: int,
    views: MakeViews | None = None,
) -> Iterator[tuple[Index, NDArray[np.float32]]]:
    """Compute the output for every image, in the order of `index`. The batch size affects rounding only.

    The network is moved to `device` and is in evaluation mode meanwhile. Afterwards its modes are restored.

    Args:
        network: the network that `output` uses.
        output: (B, 3, s, s) float32 in [0, 1] -> (B, ...). It returns probabilities if views are averaged.
        images: (B,) index -> (B, S, S, 3) uint8. A single extra thread calls it, ahead of time.
        index: (N,) int64.
        batch_size: images at a time.
        device: where to compute.
        precision: fp32, or bf16 by autocast.
        size: side s of a view, px.
        views: makes the views of a batch; None: only the `centre` view.

    Yields:
        (B,) int64 index and (B, ...) float32 output.
    """
    modes = [(module, module.training) for module in network.modules()]
    network.to(device)
    network.eval()

    def read(start: int) -> tuple[Index, Tensor]:
        part = index[start : start + batch_size]
        pixels = torch.from_numpy(images(part))
        return part, pixels.pin_memory() if device.type == "cuda" else pixels

    try:
        with closing(prefetch(read, range(0, len(index), batch_size))) as batches:
            for part, pixels in batches:
                yield (
                    part,
                    mean_output(output, pixels.to(device, non_blocking=True), part, precision, size, views),
                )
    finally:
        for module, mode in modes:
            module.training = mode


@torch.inference_mode()
def mean_output(
    output: Callable[[Tensor], Tensor],
    pixels: Tensor,
    index: Index,
    precision: Precision,
    size: int,
    views: MakeViews | None = None,
) -> NDArray[np.float32]:
    """The output for one batch, averaged over its views.

    Args:
        output: as for `run`. Its network is in evaluation mode, on the device of the pixels.
        pixels: (B, S, S, C) uint8.
        index: (B,) int64, for the views.
        precision: as for `run`.
        size: side of a view, px.
        views: as for `run`.

    Returns:
        (B, ...) float32.
    """
    total, n = torch.zeros((), device=pixels.device), 0
    for view in [centre(pixels, size)] if views is None else views(pixels, index):
        with torch.autocast(pixels.device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
            out = output(view)
        total, n = total + out.float(), n + 1
    mean: NDArray[np.float32] = (total / n).cpu().numpy()
    return mean


def mirrored(size: int) -> MakeViews:
    """Views for `run`: the central s x s px of each image, and their mirror image.

    Args:
        size: side s, px.
    """
    return partial(_mirrored, size=size)


def _mirrored(pixels: Tensor, index: Index, *, size: int) -> Iterator[Tensor]:
    view = centre(pixels, size)
    yield view
    yield view.flip(3)


def augmented(config: Views, n: int, seed: int, stage: str, size: int) -> MakeViews:
    """Views for `run`: `n` random views of each image. They don't depend on the batch size.

    Args:
        config: how views are drawn.
        n: number of views, at least 1.
        seed: the stage's seed.
        stage: the stage's name.
        size: side s, px.
    """
    return partial(_augmented, config=config, n=n, seed=seed, stage=stage, size=size)


def _augmented(
    pixels: Tensor, index: Index, *, config: Views, n: int, seed: int, stage: str, size: int
) -> Iterator[Tensor]:
    for i in range(n):
        yield random_view(pixels, Draws(seed, stage, 0, index), f"view {i}", config, size)
