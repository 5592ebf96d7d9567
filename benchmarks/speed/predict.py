"""`predict` on many image files, compared with the plain loop that a user would write."""

from __future__ import annotations

import io
import os
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.record import Comparison, rounds
from data.checkpoints import write_checkpoint
from data.preprocessing import Preprocessing
from data.sources import Source, open_source
from flows.answer import Question, answer
from flows.model_folder import Usable
from models.network import build_network
from models.opened import open_model
from tasks.predictions import squares

BACKBONES = {32: "smallconv"}
"""Network for each size of images; resnet18 for all others."""
LOOP = 500
"""Number of images on which the plain loop is measured."""


def measure(options: Namespace) -> list[Comparison]:
    """Compare the images per second of both. Also measure decoder and network, each alone."""
    if options.images is None:  # it needs --images SOURCE and --size PIXELS
        return []
    size, cores = options.size, len(os.sched_getaffinity(0))
    backbone = BACKBONES.get(size, "resnet18")
    source = open_source(options.images, "train")
    n = len(source.entries())
    with tempfile.TemporaryDirectory(dir=options.scratch) as name:
        folder = Path(name)
        network = build_network(backbone, size, seed=0, classes=10)
        arrays = {key: value.numpy() for key, value in network.state_dict().items()}
        names = [str(number) for number in range(10)]
        write_checkpoint(folder, arrays, {**network.description(), "class_names": names}, [])
        rule = open_model(folder, "cpu").rule
        values = rounds(
            {
                "ours": _ours(folder, source, n),
                "a plain loop": _loop(network, rule, source),
                "decoder alone": _decoder(rule, source, cores),
                "network alone": _network(folder, rule, n),
            },
            options.rounds,
        )
    alone = [float(np.median(values.pop(key))) for key in ("decoder alone", "network alone")]
    ours = float(np.median(values["ours"]))
    return [
        Comparison(
            f"predict-{size}",
            f"Classes of {n:,} images with {backbone} at {size} px ({options.about or options.images})",
            "images/s",
            "higher",
            values,
            {
                "ours": f"predict --out FILE.parquet on {cores} cores, fp32",
                "a plain loop": "Pillow, float32, one image at a time, torch's default threads",
            },
            extra={
                "decoder_alone": alone[0],
                "network_alone": alone[1],
                "of_both_in_turn": ours * (1 / alone[0] + 1 / alone[1]),
            },
            notes=[
                "of_both_in_turn: our speed as a share of 1 / (1 / decoder_alone + 1 / network_alone).",
            ],
        )
    ]


def _timed(work: Callable[[], int]) -> Callable[[], float]:
    def run() -> float:
        began = time.perf_counter()
        return work() / (time.perf_counter() - began)

    return run


def _ours(folder: Path, source: Source, n: int) -> Callable[[], float]:
    def work() -> int:
        out = folder / "answers.parquet"
        asked = Question(Usable(folder, None), [source], out=out, device="cpu")
        found = answer(asked, lambda line: None, lambda done, total: None)
        assert found["images"] == n
        return n

    return _timed(work)


def _loop(network: torch.nn.Module, rule: Preprocessing, source: Source) -> Callable[[], float]:
    body: Any = network.eval()

    def contents() -> Iterator[bytes]:
        for data in source.read(source.entries()[:LOOP]):
            assert isinstance(data, bytes)
            yield data

    @torch.no_grad()
    def work() -> int:
        done = 0
        for data in contents():
            image = Image.open(io.BytesIO(data)).convert("RGB")
            side = min(image.size)
            left, top = (image.width - side) // 2, (image.height - side) // 2
            crop = image.crop((left, top, left + side, top + side))
            pixels = np.asarray(crop.resize((rule.stored, rule.stored), Image.Resampling.BICUBIC))
            start = (rule.stored - rule.size) // 2
            pixels = pixels[start : start + rule.size, start : start + rule.size]
            x = torch.from_numpy(pixels.transpose(2, 0, 1).astype(np.float32) / 255)
            # The network normalises x itself.
            body(x[None]).softmax(1).argmax().item()
            done += 1
        return done

    return _timed(work)


def _decoder(rule: Preprocessing, source: Source, cores: int) -> Callable[[], float]:
    return _timed(lambda: sum(len(batch.uris) for batch in squares([source], rule, cores)))


def _network(folder: Path, rule: Preprocessing, n: int) -> Callable[[], float]:
    model, together = open_model(folder, "cpu"), 512 if rule.size < 64 else 64
    draws = np.random.default_rng(0)
    pixels = draws.integers(0, 256, (together, rule.stored, rule.stored, 3), np.uint8)

    def work() -> int:
        batches = max(1, min(n, 8192) // together)
        for _ in range(batches):
            model.logits(pixels)
        return batches * together

    return _timed(work)
