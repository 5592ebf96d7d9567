"""The assign stage on 1.3 million features: its memory, and its time compared with a matrix product alone.

The whole stage runs in a separate process, from features in Parquet to assignments in Parquet.

    python -m benchmarks.speed.assign stage|product FOLDER     measures one of them; prints JSON
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import Comparison, forget_peak, peak_memory, rounds

N, D, K = 1_300_000, 256, 2000


def measure(options: Namespace) -> list[Comparison]:
    """Compare the stage with numpy's product of the same matrices."""
    n = options.vectors or N
    seen: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=options.scratch) as name:
        _prepare(Path(name), n)

        def run(kind: str) -> Callable[[], float]:
            def once() -> float:
                command = [sys.executable, "-m", __name__, kind, name]
                done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
                found = json.loads(done.stdout.splitlines()[-1])
                if kind == "stage":
                    seen.append(found)
                return float(found["seconds"])

            return once

        values = rounds({"assign": run("stage"), "matrix product": run("product")}, options.rounds)
    return [
        Comparison(
            name="assign",
            title=f"Assigning {n:,} x {D} to the nearest of {K:,} centroids, from Parquet to Parquet",
            unit="s",
            better="lower",
            values=values,
            settings={
                "assign": "the whole stage",
                "matrix product": "numpy: all features times all centroids, in blocks",
            },
            goal=1 / 1.3,
            notes=[
                "The goal is at most 1.3 times the product's time, "
                "and at most 600 MiB more memory than the process has after its imports."
            ],
            extra={"mib_above_imports": [found["mib"] for found in seen]},
        )
    ]


def _prepare(folder: Path, n: int) -> None:
    from benchmarks.speed.kmeans import mixture
    from data import schemas
    from data.checkpoints import write_arrays
    from data.store import write_json
    from data.tables import VectorWriter, write_table

    (folder / "features").mkdir()
    (folder / "clusters").mkdir()
    x = mixture(n)
    with VectorWriter(folder / "features", schemas.features(D, "benchmark", "features")) as out:
        for start in range(0, n, 8192):
            rows = np.arange(start, min(start + 8192, n))
            out.write(rows, x[rows])
    write_table(
        folder / "clusters" / "centroids.parquet",
        {"cluster": np.arange(K), "size": np.ones(K, np.int64), "vector": list(x[:K])},
        schemas.centroids(D),
    )
    write_arrays(folder / "clusters" / "transform.safetensors", {})
    write_json(folder / "clusters" / "clusters.json", {"normalise": True})


def main(kind: str, folder: Path) -> None:
    """Print the seconds. For the stage, also print the MiB of memory above that after the imports."""
    from data.tables import iterate_vectors
    from tasks.stages import assign

    if kind == "product":
        _, centroids = assign.read_clusters(folder / "clusters")
        blocks = [x for _, x in iterate_vectors(folder / "features")]
        began = time.perf_counter()
        for x in blocks:
            x @ centroids.T
        print(json.dumps({"seconds": time.perf_counter() - began}))
        return
    import faiss  # noqa: F401  # the stage imports it too

    import models.clustering.nearest  # noqa: F401

    class Job:
        """The parts of a job that the stage uses."""

        out = folder / "out"

        def path(self, name: str) -> Path:
            return folder / name

        def meta(self, name: str) -> dict[str, Any]:
            return {"rows": 0, "stage": "elsewhere"}

        def report(self, **event: Any) -> None:
            pass

    Job.out.mkdir(exist_ok=True)
    forget_peak()
    before = _resident()
    began = time.perf_counter()
    assign.build(Job())  # type: ignore[arg-type]
    seconds = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "mib": peak_memory() / 2**20 - before}))


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
