"""PCA-whitening, L2 and K-means in a short-lived child process, for methods that cluster while they train.

    python -m models.clustering.apart FOLDER      reads features.npy and settings.json, writes labels.npy

faiss must not run in a process that has loaded torch, because their OpenMP runtimes clash. So this module
imports nothing of faiss until it runs as the main module. The child watches its stdin and exits at once when
that closes. This happens when the parent is gone, for whatever reason.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from data import errors
from data.errors import PipelineError
from data.processes import environment

_ROWS = 65_536
"""Number of feature rows in memory at once."""


@dataclass(frozen=True)
class Clustering:
    """How to cluster the features.

    Attributes:
        k: number of clusters, 1 to N.
        pca: maximum number of directions kept by PCA-whitening; None: no PCA.
        normalise: whether vectors are scaled to length 1 before K-means.
        iterations: maximum number of K-means iterations.
        seed: for all random draws.
        device: where faiss searches.
    """

    k: int
    pca: int | None = None
    normalise: bool = True
    iterations: int = 20
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "cpu"


def cluster_apart(x: NDArray[np.float32], wanted: Clustering) -> NDArray[np.int64]:
    """Cluster x in a child process. Equal arguments give equal labels on the same machine's CPU.

    Any exception raised meanwhile (a stop, Ctrl-C) kills the child and removes the files.

    Args:
        x: (N, D) features. They are copied to a temporary folder.
        wanted: how to cluster them.

    Returns:
        (N,) int64 cluster of each row, the nearest of the final centroids.

    Raises:
        PipelineError: an error of the clustering, with its own subclass; or the child died, with its last
            output.
    """
    with tempfile.TemporaryDirectory(prefix="clustering-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        np.save(folder / "features.npy", x)
        (folder / "settings.json").write_text(json.dumps(asdict(wanted)), encoding="utf-8")
        with (folder / "stderr").open("w+b") as stderr:
            child = subprocess.Popen(
                [sys.executable, "-m", __name__, name],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                env=environment(),
                start_new_session=True,  # Ctrl-C reaches only the parent, which decides what to do
            )
            with child:
                try:
                    status = child.wait()
                finally:
                    child.kill()
            stderr.seek(0)
            said = stderr.read().decode(errors="replace").strip()
        if status == 0:
            labels: NDArray[np.int64] = np.load(folder / "labels.npy")
            return labels
        if (folder / "error.json").exists():
            error = json.loads((folder / "error.json").read_text(encoding="utf-8"))
            raise getattr(errors, error["kind"])(error["text"])
    last = next(filter(None, reversed([line.strip() for line in said.splitlines()])), "it said nothing")
    raise PipelineError(
        f"clustering of {len(x)} features into {wanted.k} clusters: "
        f"its process ended with status {status} ({last}); "
        "if memory ran out, lower the number of clusters or the PCA's dimensions, or use fewer images"
    )


def _cluster(folder: Path, wanted: Clustering) -> None:
    from models.clustering.kmeans import kmeans
    from models.clustering.nearest import nearest_two
    from models.clustering.space import fit_space

    x = np.load(folder / "features.npy", mmap_mode="r")

    def blocks() -> Iterator[NDArray[np.float32]]:
        return (x[start : start + _ROWS] for start in range(0, len(x), _ROWS))

    space = fit_space(blocks, wanted.pca, wanted.normalise)
    y = np.concatenate([space.apply(block) for block in blocks()])
    found = kmeans(y, wanted.k, iterations=wanted.iterations, seed=wanted.seed, device=wanted.device)
    cluster, _, _ = nearest_two(y, found.centroids, wanted.device)
    np.save(folder / "labels.npy", cluster.astype(np.int64))


def _end_with_parent(folder: Path) -> None:
    # Not sys.stdin, because this thread would still hold its lock when the interpreter ends.
    while os.read(0, 1):
        pass
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def main(folder: Path) -> int:
    """Cluster the features in a folder. Returns the exit status: 0, or 1 with the error in error.json."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(folder,), daemon=True).start()
    wanted = Clustering(**json.loads((folder / "settings.json").read_text(encoding="utf-8")))
    try:
        _cluster(folder, wanted)
    except PipelineError as error:
        (folder / "error.json").write_text(
            json.dumps({"kind": type(error).__name__, "text": str(error)}), encoding="utf-8"
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
