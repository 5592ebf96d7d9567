"""How cost grows: seconds and memory of K-means and of assigning for growing N, k and d, with fitted slopes.

Each point is measured in a separate process:

    python -m benchmarks.speed.growth kmeans|assign N D K     measures one point; prints JSON
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from argparse import Namespace

import numpy as np

from benchmarks.record import Comparison

SWEEPS = {
    "N": [(n, 256, 500) for n in (10_000, 30_000, 100_000, 300_000, 1_300_000)],
    "k": [(100_000, 256, k) for k in (100, 300, 1000, 3000)],
    "d": [(100_000, d, 500) for d in (32, 64, 128, 256, 512)],
}


def measure(options: Namespace) -> list[Comparison]:
    """Make one comparison per sweep. Its values are the seconds of each point."""
    found = []
    for axis, points in SWEEPS.items():
        chosen = [point for point in points if point[0] <= (options.vectors or 10**9)]
        extra: dict[str, object] = {"points": [dict(zip("Ndk", point, strict=True)) for point in chosen]}
        values: dict[str, list[float]] = {}
        for what in ("kmeans", "assign"):
            runs = [_run(what, *point) for point in chosen]
            values[what] = [run["seconds"] for run in runs]
            extra[f"{what}_mib"] = [run["mib"] for run in runs]
            at = np.log([point["Ndk".index(axis)] for point in chosen])
            extra[f"{what}_slope"] = (
                float(np.polyfit(at, np.log(values[what]), 1)[0]) if len(chosen) > 1 else None
            )
        settings = {"kmeans": "the start, and 5 iterations over all points", "assign": "nearest_two"}
        title = f"Seconds of clustering for growing {axis}"
        found.append(Comparison(f"growth-{axis.lower()}", title, "s", "lower", values, settings, extra=extra))
    return found


def _run(what: str, n: int, d: int, k: int) -> dict[str, float]:
    command = [sys.executable, "-m", __name__, what, str(n), str(d), str(k)]
    found: dict[str, float] = json.loads(
        subprocess.run(command, check=True, capture_output=True, text=True).stdout
    )
    print(f"  {what} N={n} d={d} k={k}: {found['seconds']:.3g} s", file=sys.stderr, flush=True)
    return found


def main(what: str, n: int, d: int, k: int) -> None:
    """Measure one point: print the seconds, and the MiB of memory in addition to the vectors."""
    from benchmarks.speed.kmeans import mixture
    from models.clustering.kmeans import kmeans
    from models.clustering.nearest import nearest_two

    x = mixture(n, d)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    if what == "kmeans":
        kmeans(x, k, iterations=5, seed=0)
    else:
        nearest_two(x, np.ascontiguousarray(x[:k]))
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"seconds": seconds, "mib": (peak - before) / 1024}))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
