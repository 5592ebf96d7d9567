"""What synchronised batch norm costs: steps of BYOL in two processes, with and without synchronisation.

Momentum² Teacher needs no synchronisation. The student's norms use only the images of their own process, and
the teacher's norms are MomentumBN. In both cases, gradients are averaged over the processes. The network and
the views are small, so that the norms take much of the time. The more arithmetic a step has, the less
synchronisation matters.

    python -m benchmarks.speed.norms momentum|synchronised RANK PORT     runs one process; prints JSON
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from typing import Any

from benchmarks.record import Comparison, rounds

PROCESSES, STEPS, BATCH, SIDE = 2, 30, 32, 24
BACKBONE = "resnet18"


def measure(options: Namespace) -> list[Comparison]:
    """Compare MomentumBN with synchronised statistics."""

    def run(kind: str) -> Callable[[], float]:
        def once() -> float:
            with socket.create_server(("127.0.0.1", 0)) as probe:
                port = probe.getsockname()[1]
            words = [sys.executable, "-m", __name__, kind]
            ranks = [
                subprocess.Popen(
                    [*words, str(rank), str(port)], stdout=subprocess.PIPE, text=True, env=os.environ
                )
                for rank in range(PROCESSES)
            ]
            said = [process.communicate()[0] for process in ranks]
            if any(process.returncode for process in ranks):
                raise RuntimeError(f"benchmark norms, {kind}: a process failed; its error is printed above")
            return float(json.loads(said[0])["images_per_second"])

        return once

    values = rounds({kind: run(kind) for kind in ("momentum", "synchronised")}, options.rounds)
    return [
        Comparison(
            name="norms",
            title=f"A step of BYOL in {PROCESSES} processes with one thread each, "
            f"{BACKBONE}, {BATCH} images of {SIDE} px per process",
            unit="images/s",
            better="higher",
            values=values,
            settings={
                "momentum": "the student uses the statistics of its process; the teacher uses MomentumBN",
                "synchronised": "student and teacher sum the statistics of both processes "
                "with all-reduce (gloo), forward and backward",
            },
            notes=["According to the paper, SyncBN makes training up to four times slower on many GPUs."],
        )
    ]


def main(kind: str, rank: int, port: int) -> None:
    """Run one process. Rank 0 prints the images per second of both processes together."""
    import torch
    import torch.distributed as dist

    from models.configs.byol import BYOL
    from models.configs.momentum2 import Momentum2
    from models.method import Batch, Progress
    from models.methods.byol import BYOLMethod, Momentum2Method

    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=PROCESSES)
    shared = {"backbone": BACKBONE, "batch_size": BATCH, "view_size": SIDE}
    method: Any = (
        Momentum2Method(Momentum2(**shared), 32, 0)
        if kind == "momentum"
        else BYOLMethod(BYOL(**shared), 32, 0)
    )  # type: ignore[arg-type]
    if kind == "synchronised":
        synchronise(method)
    method.train()
    learned = [p for p in method.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(learned, 0.01, momentum=0.9)
    views = torch.randn(2 * BATCH, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(rank))
    batch = Batch(views, torch.arange(BATCH))
    batch.views = views
    began = 0.0
    for step in range(-5, STEPS):
        if step == 0:
            dist.barrier()
            began = time.perf_counter()
        progress = Progress(step=step + 5, steps=STEPS + 5, epoch=0, epochs=1)
        optimizer.zero_grad()
        method.loss(batch, progress).total.backward()
        flat = torch.cat([p.grad.flatten() for p in learned if p.grad is not None])
        dist.all_reduce(flat)
        at = 0
        for p in learned:
            if p.grad is not None:
                p.grad.copy_(flat[at : at + p.numel()].view_as(p) / PROCESSES)
                at += p.numel()
        optimizer.step()
        method.after_update(progress)
    seconds = time.perf_counter() - began
    if rank == 0:
        print(json.dumps({"images_per_second": PROCESSES * BATCH * STEPS / seconds}))
    dist.destroy_process_group()


def synchronise(module: Any) -> None:
    """Change all batch norms of a module, in place, to use the statistics of all processes."""
    import torch
    import torch.distributed as dist
    from torch.nn.modules.batchnorm import _BatchNorm

    class Sum(torch.autograd.Function):
        """The sum over all processes. Its gradient is summed over all processes too."""

        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            x = x.clone()
            dist.all_reduce(x)
            return x

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            g = g.clone()
            dist.all_reduce(g)
            return g

    def forward(norm: Any, x: Any) -> Any:
        dims = [0, *range(2, x.ndim)]
        n = PROCESSES * x.numel() / x.shape[1]
        mean, square = (Sum.apply(torch.stack([x.sum(dims), x.square().sum(dims)])) / n).unbind()
        shape = (1, -1, *[1] * (x.ndim - 2))
        scale = (square - mean.square() + norm.eps).rsqrt() * norm.weight
        return x * scale.view(shape) + (norm.bias - mean * scale).view(shape)

    for norm in module.modules():
        if isinstance(norm, _BatchNorm):
            norm.forward = forward.__get__(norm)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
