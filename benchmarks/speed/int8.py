"""Exported networks in 8 bits, compared with the same networks in float32. ONNX Runtime computes both."""

from __future__ import annotations

import os
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from statistics import median

from benchmarks.record import Comparison, rounds
from data.preprocessing import Preprocessing
from models.export import int8, onnx_file, runtime
from models.export.answering import BATCH, About, Answering, Pixels
from models.network import build_network

CASES = (("resnet18", 64, 1.0), ("resnet18", 224, 1.0), ("smallconv", 32, 1.25), ("smallconv", 64, 1.25))
"""Backbone, side of its images in px, and width."""
CLASSES = tuple("abcdefghij")
SECONDS = 1.0
"""How long a contestant answers in each round, at least."""
PASSES = 3
"""How often it answers in each round, at least."""


def measure(options: Namespace) -> list[Comparison]:
    """Compare the images per second of both files."""
    with tempfile.TemporaryDirectory(dir=options.scratch) as name:
        return [_case(backbone, size, width, options.rounds, Path(name)) for backbone, size, width in CASES]


def _case(backbone: str, size: int, width: float, n: int, place: Path) -> Comparison:
    # The speed does not depend on the weights, so random ones will do.
    network = build_network(backbone, size, seed=0, width=width, classes=len(CLASSES)).eval()
    rule = Preprocessing.of(network.description())
    model, about = Answering(network, rule), About(CLASSES, rule)
    images = model.example(BATCH).numpy()
    folder = place / f"{backbone}-{size}"
    folder.mkdir()
    start = int8.prepared(model, about, folder)
    int8.quantise(start, folder / "all.onnx", images, [])
    int8.quantise(start, folder / "careful.onnx", images, int8.weak_parts(start))
    files = {"ours": "all.onnx", "float32": onnx_file.FILE, "weak parts in float": "careful.onnx"}
    values = rounds({each: _answers(folder / file, images) for each, file in files.items()}, n)
    cores = len(os.sched_getaffinity(0))
    return Comparison(
        f"int8-{backbone}-{size}",
        f"Classes of images in 8 bits, {backbone} × {width:g} at {size} px",
        "images/s",
        "higher",
        values,
        {
            "ours": f"model-int8.onnx with everything in 8 bits, {cores} cores, {BATCH} images at a time",
            "float32": "model.onnx, in the same way",
            "weak parts in float": "model-int8.onnx as it is if 8 bits change too many answers: the first "
            "convolution and the classifier are in float",
        },
        goal=2.0,
        peer="float32",
        extra={"bytes": {each: (folder / file).stat().st_size for each, file in files.items()}},
        notes=["ONNX Runtime has its usual options. The CPU's instructions decide how much 8 bits gain."],
    )


def _answers(path: Path, images: Pixels) -> Callable[[], float]:
    """Images per second: the median of the passes within `SECONDS`."""
    answer = runtime.session(path, 0)

    def run() -> float:
        answer(images)
        took: list[float] = []
        began = time.perf_counter()
        while len(took) < PASSES or time.perf_counter() - began < SECONDS:
            start = time.perf_counter()
            answer(images)
            took.append(time.perf_counter() - start)
        return len(images) / median(took)

    return run
