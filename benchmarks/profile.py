"""Profile views, a training step, or K-means: print a table with each part's share of the time.

    python -m benchmarks.profile views|step|kmeans > benchmarks/records/RECORD/profile-views-after.md

To profile an earlier commit, check it out as a worktree. Run this file with PYTHONSAFEPATH=1 and a PYTHONPATH
with that worktree first and this one second. Save the table as the record's profile-views-before.md.
docs/performance.md shows both tables.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SHOWN = 10


def main() -> None:
    """Run the profile that the command line names."""
    import models

    folder = Path(models.__path__[0])
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=folder, capture_output=True, text=True
    )
    print(f"At commit `{commit.stdout.strip()}`: ", end="")
    {"views": views, "step": step, "kmeans": kmeans}[sys.argv[1]]()


def views() -> None:
    """Profile SimCLR's two views of 64 images at 96 px, on one core."""
    import torch

    from benchmarks.speed.views import photographs
    from data.draws import Draws
    from data.preprocessing import stored_size
    from models.augment import two_views
    from models.configs.shared import Views

    torch.set_num_threads(1)
    images = torch.from_numpy(np.stack(photographs(stored_size(96), 64)))
    config = Views(jitter=0.5, jitter_probability=0.8, grey=0.2, blur=0.5)

    def run() -> None:
        for epoch in range(5):
            two_views(images, Draws(0, "profile", epoch, np.arange(64)), config, 96)

    _operators(run, 2 * 64 * 5, "view")


def step() -> None:
    """Profile training steps of the teacher of the recipe cifar10, on all cores."""
    import torch

    from benchmarks.speed.views import photographs
    from flows.recipes.cifar10 import CONFIG
    from models.engine import train
    from models.method import Batch
    from models.methods.simclr import SimCLRMethod

    pixels = np.stack(photographs(32, 1024))

    class Feed:
        steps_per_epoch = 12

        def batch(self, epoch: int, step: int) -> Batch:
            rows = np.arange(step * 256, (step + 1) * 256) % len(pixels)
            return Batch(torch.from_numpy(pixels[rows]), torch.from_numpy(rows))

    def run() -> None:
        method: Any = SimCLRMethod(CONFIG.pretext, 32, 0)  # type: ignore[arg-type]  # this recipe uses SimCLR
        train(
            method,
            Feed(),
            epochs=1,
            seed=0,
            stage="profile",
            schedule=lambda step, steps: 1.0,
            device=torch.device("cpu"),
            precision="bf16",
        )

    _operators(run, 12, "step")


def _operators(run: Callable[[], None], n: int, what: str) -> None:
    from torch.profiler import ProfilerActivity, profile

    run()
    began = time.perf_counter()
    run()
    seconds = time.perf_counter() - began
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        run()
    rows = sorted(seen.key_averages(), key=lambda row: -row.self_cpu_time_total)
    total = sum(row.self_cpu_time_total for row in rows)
    print(f"{1000 * seconds / n:.3g} ms per {what} (measured without the profiler)\n")
    print(f"| operator | share of CPU time | calls per {what} |\n| --- | ---: | ---: |")
    for row in rows[:SHOWN]:
        print(f"| {row.key} | {100 * row.self_cpu_time_total / total:.1f} % | {row.count / n:.3g} |")


def kmeans() -> None:
    """Profile K-means of 325,000 x 256 vectors (the mixture of speed/kmeans.py) into 2000 clusters."""
    from benchmarks.speed.kmeans import mixture
    from models.clustering import kmeans as module

    spent: dict[str, float] = defaultdict(float)
    calls: dict[str, int] = defaultdict(int)

    def timed(owner: Any, name: str) -> None:
        inner = getattr(owner, name)

        def outer(*args: Any, **options: Any) -> Any:
            began = time.perf_counter()
            try:
                return inner(*args, **options)
            finally:
                spent[name] += time.perf_counter() - began
                calls[name] += 1

        setattr(owner, name, outer)

    x = mixture(325_000)
    parts = [(module, name) for name in ("_start", "_assign", "_accumulate", "_update", "nearest_two")]
    if not hasattr(module, "_assign"):
        parts += [(module.CentroidIndex, name) for name in ("nearest", "nearest_of_neighbours")]
    for owner, name in parts:
        if hasattr(owner, name):
            timed(owner, name)
    began = time.perf_counter()
    found = module.kmeans(x, 2000, iterations=20, seed=0)
    seconds = time.perf_counter() - began
    print(
        f"{seconds:.3g} s, {len(found.objective)} iterations over all points, "
        f"objective {found.objective[-1]:.6f}\n"
    )
    print("| part | share of the time | calls |\n| --- | ---: | ---: |")
    for name, value in sorted(spent.items(), key=lambda item: -item[1]):
        print(f"| {name} | {100 * value / seconds:.1f} % | {calls[name]} |")


if __name__ == "__main__":
    main()
