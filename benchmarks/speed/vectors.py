"""Writing and reading features as Parquet, compared with pyarrow's defaults, and its share of embedding."""

from __future__ import annotations

import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.record import Comparison, rounds

N, D, BLOCK = 400_000, 256, 512


def measure(options: Namespace) -> list[Comparison]:
    """Compare writing and reading, and measure the share of writing in the time of embedding."""
    n = min(N, options.vectors or N)
    x = np.random.default_rng(0).standard_normal((n, D), np.float32)
    mib = x.nbytes / 2**20
    with tempfile.TemporaryDirectory(dir=options.scratch) as name:
        folder = Path(name)
        writing = rounds(
            {"ours": _write(x, folder, mib), "pyarrow's defaults": _write_default(x, folder, mib)},
            options.rounds,
        )
        reading = rounds(
            {"ours": _read(folder, mib), "pyarrow's defaults": _read_default(folder, mib)}, options.rounds
        )
        share = _share(folder)
    settings = {
        "ours": f"VectorWriter in blocks of {BLOCK}, read_vectors",
        "pyarrow's defaults": "pq.write_table of fixed-size lists of float32; pq.read_table, flattened",
    }
    title = f"{n:,} vectors of {D} float32"
    return [
        Comparison("vectors-write", f"Writing {title} to Parquet", "MiB/s", "higher", writing, settings),
        Comparison(
            "vectors-read",
            f"Reading {title} from Parquet into one array",
            "MiB/s",
            "higher",
            reading,
            settings,
            goal=1.5,
            extra={"share_of_embedding_percent": share},
            notes=[
                "share_of_embedding_percent is the share of VectorWriter in the time in which a small "
                "network embeds images of 32 px. It should be under 3."
            ],
        ),
    ]


def _write(x: np.ndarray, folder: Path, mib: float) -> Callable[[], float]:
    def run() -> float:
        from data import schemas
        from data.tables import VectorWriter

        (folder / "ours").mkdir(exist_ok=True)
        began = time.perf_counter()
        with VectorWriter(folder / "ours", schemas.features(D, "benchmark", "features")) as out:
            for start in range(0, len(x), BLOCK):
                part = x[start : start + BLOCK]
                out.write(np.arange(start, start + len(part)), part)
        return mib / (time.perf_counter() - began)

    return run


def _write_default(x: np.ndarray, folder: Path, mib: float) -> Callable[[], float]:
    def run() -> float:
        import pyarrow as pa
        import pyarrow.parquet as pq

        began = time.perf_counter()
        vector = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), D)
        pq.write_table(pa.table({"index": np.arange(len(x)), "vector": vector}), folder / "default.parquet")
        return mib / (time.perf_counter() - began)

    return run


def _read(folder: Path, mib: float) -> Callable[[], float]:
    def run() -> float:
        from data.tables import read_vectors

        began = time.perf_counter()
        read_vectors(folder / "ours")
        return mib / (time.perf_counter() - began)

    return run


def _read_default(folder: Path, mib: float) -> Callable[[], float]:
    def run() -> float:
        import pyarrow.parquet as pq

        began = time.perf_counter()
        column = pq.read_table(folder / "default.parquet")["vector"]
        np.concatenate([chunk.flatten().to_numpy() for chunk in column.chunks]).reshape(-1, D)
        return mib / (time.perf_counter() - began)

    return run


def _share(folder: Path) -> float:
    """The percentage of the embedding time that is spent writing."""
    import torch

    from benchmarks.speed.views import photographs
    from data import schemas
    from data.tables import VectorWriter
    from models.device import resolve_device, resolve_precision
    from models.inference import run
    from models.network import build_network

    network, pixels = build_network("smallconv", 32, seed=0), np.stack(photographs(32, 512))
    device = resolve_device("auto")
    writing = 0.0
    (folder / "embedded").mkdir()
    began = time.perf_counter()
    schema = schemas.features(network.output_dim, "benchmark", "features")
    with VectorWriter(folder / "embedded", schema) as out, torch.inference_mode():
        blocks = run(
            network,
            network.features,
            lambda rows: pixels[rows % 512],
            np.arange(16_384),
            batch_size=BLOCK,
            size=32,
            device=device,
            precision=resolve_precision("auto", device),
        )
        for index, block in blocks:
            start = time.perf_counter()
            out.write(index, block)
            writing += time.perf_counter() - start
    return 100 * writing / (time.perf_counter() - began)
