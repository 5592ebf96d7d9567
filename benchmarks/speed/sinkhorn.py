"""Sinkhorn-Knopp of 4096 x 3000 scores in three iterations, as for SwAV's codes of a batch with its queue."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable
from typing import Any

from benchmarks.record import Comparison, rounds

ROWS, PROTOTYPES, EPSILON, ITERATIONS = 4096, 3000, 0.05, 3


def measure(options: Namespace) -> list[Comparison]:
    """Compare ours with the listing in the paper's appendix, written in torch."""
    import torch

    from models.device import resolve_device
    from models.losses.sinkhorn import sinkhorn

    device = resolve_device("auto")
    generator = torch.Generator().manual_seed(0)
    z, C = (
        torch.nn.functional.normalize(torch.randn(n, 128, generator=generator)) for n in (ROWS, PROTOTYPES)
    )
    scores = (z @ C.T).to(device)
    contestants = {
        "ours": lambda: sinkhorn(scores, EPSILON, ITERATIONS),
        "the paper's listing": lambda: _listing(scores),
    }
    values = rounds({name: _timed(run, device) for name, run in contestants.items()}, max(options.rounds, 5))
    return [
        Comparison(
            name="sinkhorn",
            title=f"Sinkhorn-Knopp, {ROWS} x {PROTOTYPES}, {ITERATIONS} iterations, {device.type}",
            unit="ms",
            better="lower",
            values=values,
            settings={
                "ours": "sinkhorn, float32, safe for any epsilon",
                "the paper's listing": "exp, then rows and columns are divided by their sums in turn; "
                "it overflows if epsilon is small",
            },
            notes=["The paper reports 35 ms on a GPU."],
        )
    ]


def _listing(scores: Any) -> Any:
    import torch

    with torch.no_grad():
        q = torch.exp(scores / EPSILON).T
        q /= q.sum()
        K, B = q.shape
        for _ in range(ITERATIONS):
            q /= q.sum(dim=1, keepdim=True)
            q /= K
            q /= q.sum(dim=0, keepdim=True)
            q /= B
        return (q * B).T


def _timed(run: Callable[[], Any], device: Any) -> Callable[[], float]:
    import torch

    def once(times: int = 10) -> float:
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(times):
            run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return 1000 * (time.perf_counter() - began) / times

    return once
