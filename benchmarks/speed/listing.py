"""The manifest's pass over the bytes, compared with a bare decode of the same images."""

from __future__ import annotations

import os
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from benchmarks.record import Comparison, rounds
from data.decode import decode
from data.manifest import make_manifest
from data.packs import Shape
from data.preprocessing import stored_size
from data.sources import Entry, Source, open_source
from data.spread import spread


def measure(options: Namespace) -> list[Comparison]:
    """Compare the images per second of both, and of a second run over the same images."""
    if options.images is None:  # it needs --images SOURCE and --size PIXELS
        return []
    cores = len(os.sched_getaffinity(0))
    source = open_source(options.images, "train")
    n = len(source.entries())
    with tempfile.TemporaryDirectory(dir=options.scratch) as name:
        values = rounds(
            {
                "ours": _pass(options.images, options.size, n, cores, Path(name)),
                "a bare decode": _decode(source, n, cores),
            },
            options.rounds,
        )
        again = _again(options.images, options.size, n, cores, Path(name))
    return [
        Comparison(
            f"listing-{options.size}",
            f"Listing, hashing, checking and packing {n:,} images ({options.about or options.images})",
            "images/s",
            "higher",
            values,
            {
                "ours": f"make_manifest in {cores} processes, squares of {stored_size(options.size)} px; "
                "images that show the same picture are found as well",
                "a bare decode": f"read and decode the same bytes in {cores} processes, keep nothing",
            },
            extra={"second_run_images_per_second": again},
            notes=["second_run_images_per_second: the same images again. They are listed, not read."],
        )
    ]


def _manifest(images: str, size: int, cores: int, folder: Path, known: object = None) -> object:
    made = make_manifest(
        images,
        None,
        None,
        seed=0,
        max_rejected=1,
        hold_out=False,
        workers=cores,
        packs=folder / "packs",
        compared=folder / "twins",
        shape=Shape(stored_size(size)),
        known=known,  # type: ignore[arg-type]  # a table or None
    )
    return made.known


def _pass(images: str, size: int, n: int, cores: int, folder: Path) -> Callable[[], float]:
    def run() -> float:
        with tempfile.TemporaryDirectory(dir=folder) as fresh:
            began = time.perf_counter()
            _manifest(images, size, cores, Path(fresh))
            return n / (time.perf_counter() - began)

    return run


def _again(images: str, size: int, n: int, cores: int, folder: Path) -> float:
    known = _manifest(images, size, cores, folder)
    began = time.perf_counter()
    _manifest(images, size, cores, folder, known)
    return n / (time.perf_counter() - began)


def _decode_batch(task: tuple[Source, list[Entry]]) -> int:
    source, entries = task
    return sum(decode(data).nbytes for data in source.read(entries) if not isinstance(data, str))


def _decode(source: Source, n: int, cores: int) -> Callable[[], float]:
    def run() -> float:
        began = time.perf_counter()
        batches = source.batches(source.entries(), 256)
        assert sum(spread(_decode_batch, ((source, batch) for batch in batches), cores)) > 0
        return n / (time.perf_counter() - began)

    return run
