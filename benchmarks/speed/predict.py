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
from models.export import int8, onnx_file
from models.export.answering import About, Answering
from models.network import Network, build_network
from models.opened import open_model
from tasks.predictions import squares

BACKBONES = {32: "smallconv"}
"""Network for each size of images; resnet18 for all others."""
LOOP = 500
"""Number of images on which the plain loop is measured."""
NAMES = [str(number) for number in range(10)]
GOALS = {"predict-32": 5.0, "predict-224-int8": 3.0}
"""How many times faster than the plain loop `predict` should be."""


def measure(options: Namespace) -> list[Comparison]:
    """Compare the images per second of both. Also measure decoder and network, each alone.

    `predict` is asked with a checkpoint, in float32, and with the same network's file in 8 bits.
    """
    if options.images is None:  # it needs --images SOURCE and --size PIXELS
        return []
    size, cores = options.size, len(os.sched_getaffinity(0))
    backbone = BACKBONES.get(size, "resnet18")
    source = open_source(options.images, "train")
    n = len(source.entries())
    with tempfile.TemporaryDirectory(dir=options.scratch) as name:
        folder = Path(name)
        network = build_network(backbone, size, seed=0, classes=len(NAMES))
        arrays = {key: value.numpy() for key, value in network.state_dict().items()}
        write_checkpoint(folder, arrays, {**network.description(), "class_names": NAMES}, [])
        rule = open_model(folder, "cpu").rule
        loop = _loop(network, rule, source)
        in_8_bits = _in_8_bits(network, rule, folder)
        asked = {"float32": folder, "8 bits": in_8_bits}
        values = rounds(
            {
                **{f"predict, {each}": _ours(place, source, n) for each, place in asked.items()},
                "a plain loop": loop,
                "decoder alone": _decoder(rule, source, cores),
                **{f"network alone, {each}": _network(place, rule, n) for each, place in asked.items()},
            },
            options.rounds,
        )
    images = f"{n:,} images with {backbone} at {size} px ({options.about or options.images})"
    return [
        _compared(
            f"predict-{size}", f"Classes of {images}", f"the checkpoint, {cores} cores", values, "float32"
        ),
        _compared(
            f"predict-{size}-int8",
            f"Classes of {images}, in 8 bits",
            f"the exported model-int8.onnx, everything in 8 bits, {cores} cores",
            values,
            "8 bits",
        ),
    ]


def _compared(name: str, title: str, asked: str, values: dict[str, list[float]], form: str) -> Comparison:
    decoder, network = values["decoder alone"], values[f"network alone, {form}"]
    ours = values[f"predict, {form}"]
    alone = [float(np.median(each)) for each in (decoder, network)]
    return Comparison(
        name,
        title,
        "images/s",
        "higher",
        {"ours": ours, "a plain loop": values["a plain loop"]},
        {
            "ours": f"predict --out FILE.parquet with {asked}",
            "a plain loop": "Pillow, float32, one image at a time, torch's default threads",
        },
        goal=GOALS.get(name),
        extra={
            "decoder_alone": alone[0],
            "network_alone": alone[1],
            "of_both_in_turn": float(np.median(ours)) * (1 / alone[0] + 1 / alone[1]),
        },
        notes=["of_both_in_turn: our speed as a share of 1 / (1 / decoder_alone + 1 / network_alone)."],
    )


def _in_8_bits(network: Network, rule: Preprocessing, folder: Path) -> Path:
    """Write the network's file in 8 bits. The speed does not depend on the weights or on the ranges."""
    model, about = Answering(network, rule), About(tuple(NAMES), rule)
    place = folder / "exported"
    place.mkdir()
    path = place / int8.FILE
    int8.quantise(int8.prepared(model, about, place), path, model.example(32).numpy(), [])
    onnx_file.describe(path, about)
    return path


def _timed(work: Callable[[], int]) -> Callable[[], float]:
    def run() -> float:
        began = time.perf_counter()
        return work() / (time.perf_counter() - began)

    return run


def _ours(place: Path, source: Source, n: int) -> Callable[[], float]:
    def work() -> int:
        out = (place if place.is_dir() else place.parent) / "answers.parquet"
        asked = Question(Usable(place, None), [source], out=out, device="cpu")
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


def _network(place: Path, rule: Preprocessing, n: int) -> Callable[[], float]:
    model, together = open_model(place, "cpu"), 512 if rule.size < 64 else 64
    most = 8192 if rule.size < 64 else 1024
    draws = np.random.default_rng(0)
    pixels = draws.integers(0, 256, (together, rule.stored, rule.stored, 3), np.uint8)

    def work() -> int:
        batches = max(1, min(n, most) // together)
        for _ in range(batches):
            model.logits(pixels)
        return batches * together

    return _timed(work)
