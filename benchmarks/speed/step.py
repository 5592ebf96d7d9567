"""A training step of SimCLR, from images to updated weights, compared with the loop that a user would write.

Ours is the engine. The plain loop uses float32, contiguous tensors, lightly's NT-Xent, and lightly's
transform on each image in a DataLoader with one worker per core. The network, the batch, the optimiser and
the distribution of views are the same in both.
"""

from __future__ import annotations

import os
import time
from argparse import Namespace
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.record import Comparison, apart, rounds
from benchmarks.speed.views import photographs
from data.processes import KEPT_MEMORY

BATCH, SIZE = 256, 32
BACKBONES = ("resnet18", "smallconv")
WARM, STEPS = 2, {"resnet18": 4, "smallconv": 12}
CURVE = 120
"""The number of steps of the two loss curves."""
RATE, MOMENTUM = 0.06, 0.9


def measure(options: Namespace) -> list[Comparison]:
    """Compare images per second with a large and a small network, and the loss curves of the small one."""
    found = [_step(name, options.rounds) for name in BACKBONES]
    pixels = _pixels()
    found[-1].extra["curves"] = {
        "ours": _ours("smallconv", pixels, CURVE)[1],
        "plain loop": _plain("smallconv", pixels, CURVE)[1],
    }
    return found


def rate(contestant: str, backbone: str) -> float:
    """The images per second of "ours" or of the "plain loop"."""
    steps = WARM + STEPS[backbone]
    at, _ = (_ours if contestant == "ours" else _plain)(backbone, _pixels(), steps)
    return BATCH * (steps - WARM) / (at[-1] - at[WARM - 1])


def _pixels() -> np.ndarray:
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    return np.stack(photographs(SIZE, 4096))


def _step(backbone: str, n: int) -> Comparison:
    theirs = "plain loop"
    values = rounds(
        {"ours": apart(rate, "ours", backbone, **KEPT_MEMORY), theirs: apart(rate, theirs, backbone)}, n
    )
    return Comparison(
        name=f"step-{backbone}",
        title=f"A step of SimCLR with {backbone}, {BATCH} images of {SIZE} px, all cores",
        unit="images/s",
        better="higher",
        values=values,
        settings={
            "ours": "the engine: packed pixels, batched views, autocast with compute.precision auto, "
            "channels-last tensors, memory kept between steps",
            "plain loop": "float32, contiguous tensors, lightly's SimCLRTransform on each image in a "
            "DataLoader with one worker per core, lightly's NTXentLoss",
        },
        goal=2.5,
        notes=[
            "Each image counts once, although a step uses two views of it. "
            "The time of waiting for views is included."
        ],
    )


def _network(backbone: str) -> Any:
    from models.configs.simclr import SimCLR
    from models.methods.simclr import SimCLRMethod

    config = SimCLR(
        backbone=backbone,
        batch_size=BATCH,
        epochs=1,
        optimizer="sgd",
        learning_rate=RATE,
        weight_decay=0.0,
        jitter=0.5,
    )
    return SimCLRMethod(config, SIZE, seed=0)


def _ours(backbone: str, pixels: np.ndarray, steps: int) -> tuple[list[float], list[float]]:
    """Train with our engine -> (the time at which each step ended, its loss)."""
    import torch

    from models.device import resolve_device, resolve_precision
    from models.engine import train
    from models.method import Batch

    class Feed:
        steps_per_epoch = steps

        def batch(self, epoch: int, step: int) -> Batch:
            rows = _rows(step, len(pixels))
            return Batch(torch.from_numpy(pixels[rows]), torch.from_numpy(rows))

    at: list[float] = []

    def tick() -> bool:
        at.append(time.perf_counter())
        return False

    device = resolve_device("auto")
    done = train(
        _network(backbone),
        Feed(),
        epochs=1,
        seed=0,
        stage="benchmark",
        schedule=lambda step, steps: 1.0,
        device=device,
        precision=resolve_precision("auto", device),
        interrupted=tick,
    )
    return at, [row.value for row in done.rows if row.name == "loss"]


def _plain(backbone: str, pixels: np.ndarray, steps: int) -> tuple[list[float], list[float]]:
    import torch
    from lightly.loss import NTXentLoss
    from lightly.transforms import SimCLRTransform
    from PIL import Image

    class Pictures(torch.utils.data.Dataset):  # type: ignore[type-arg]
        transform = SimCLRTransform(input_size=SIZE, cj_strength=0.5, gaussian_blur=0.0)

        def __len__(self) -> int:
            return len(pixels)

        def __getitem__(self, i: int) -> list[Any]:
            views: list[Any] = self.transform(Image.fromarray(pixels[i]))
            return views

    def batches() -> Iterator[list[int]]:
        for step in range(steps):
            yield _rows(step, len(pixels)).tolist()

    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    method = _network(backbone).to(device)  # the same initial weights as ours
    criterion = NTXentLoss(temperature=method.config.temperature)
    optimizer = torch.optim.SGD(method.parameters(), lr=RATE, momentum=MOMENTUM)
    loader = torch.utils.data.DataLoader(
        Pictures(),
        batch_sampler=list(batches()),
        num_workers=len(os.sched_getaffinity(0)),
        multiprocessing_context="fork",
    )
    at, losses = [], []
    for first, second in loader:
        z = [method.projector(method.network(view.to(device))) for view in (first, second)]
        loss = criterion(*z)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        at.append(time.perf_counter())
    return at, losses


def _rows(step: int, n: int) -> np.ndarray:
    return np.arange(step * BATCH, (step + 1) * BATCH) % n
