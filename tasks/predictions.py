"""Ask a model about a stream of images. Images are read ahead while the network computes.

Memory holds a few batches of squares, or `AHEAD` bytes of them, however many images there are. Only processes
that compute import this.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.preprocessing import Preprocessing
from data.sources import Source
from data.spread import open_pool
from data.squares import Read, read, read_all, wanted
from models.evaluation.calibration import ranked, softmax
from models.opened import Opened
from models.prefetch import prefetch

LARGE = 256 << 20
"""From this number of bytes of files on, processes decode them. One thread decodes fewer bytes in about
ten seconds, while the network computes."""
AHEAD = 1 << 30
"""Bytes of squares that processes may decode ahead. A row group of a Parquet file can have thousands of
images, and a process reads it as a whole."""


@dataclass(frozen=True)
class Block:
    """What a model says of a batch of images, of which n were read and m can be used.

    Attributes:
        read: the images.
        probability: (m, K) float64; K is 0 without a classifier.
        features: (m, D) float32; D is 0 if they were not asked for.
    """

    read: Read
    probability: NDArray[np.float64]
    features: NDArray[np.float32]


def ask(model: Opened, sources: Sequence[Source], *, workers: int, features: bool = False) -> Iterator[Block]:
    """Ask a model about all images of some sources, in the order in which they are read.

    Args:
        model: the model.
        sources: where the images are.
        workers: number of processes that decode if there is much to decode.
        features: whether to return the features too.

    Raises:
        DataError: a source can't be listed, or a file that holds many images is damaged.
    """
    with closing(squares(sources, model.rule, workers)) as batches:
        for batch in batches:
            if len(batch.squares):
                said = model.outputs(batch.squares, features=features)
                logits, vectors = said.logits, said.features
            else:
                logits = np.zeros((0, model.classes), np.float32)
                vectors = np.zeros((0, (model.dim or 0) if features else 0), np.float32)
            probability = softmax(logits, model.rule.temperature) if logits.size else logits.astype(float)
            yield Block(batch, probability, vectors)


def squares(sources: Sequence[Source], rule: Preprocessing, workers: int) -> Generator[Read]:
    """Read all images of some sources, a few batches ahead.

    Args:
        sources: where the images are.
        rule: how they are prepared.
        workers: number of processes that decode if there is much to decode.
    """
    if workers >= 2 and all(source.parallel for source in sources):
        entries = [entry for source in sources for entry in source.entries()]
        files = {(entry.mtime, entry.size) for entry in entries}  # rows of one Parquet file share its size
        if sum(size for _, size in files) >= LARGE:
            lists = list(wanted(sources, rule))
            longest = max(len(each.entries) for each in lists) * rule.shape.bytes
            depth = max(1, min(workers, AHEAD // longest))
            with closing(prefetch(read_all, lists, depth, open_pool(workers))) as found:
                for batches in found:
                    yield from batches
            return
    every = (batch for work in wanted(sources, rule) for batch in read(work))
    # A single thread advances `every`, so a file is read once, and only a few batches are in memory.
    with closing(prefetch(lambda _: next(every, None), repeat(None), depth=2)) as one_by_one:
        for batch in one_by_one:
            if batch is None:
                return
            yield batch


def columns(block: Block, names: Sequence[str], top: int) -> dict[str, Any]:
    """The columns of `data.schemas.predictions` that a block fills, without those of neighbours.

    Args:
        block: the block.
        names: names of the classes; empty: no columns about classes.
        top: number of most likely classes.
    """
    n = len(block.read.uris)
    good = np.array([reason is None for reason in block.read.reasons], np.bool_)
    found: dict[str, Any] = {
        "uri": block.read.uris,
        "reason": block.read.reasons,
        "source": [block.read.source] * n,
    }
    if names:
        best, sure = ranked(block.probability, max(2, top))
        pairs = [("class", "probability"), ("runner_up", "runner_up_probability")]
        pairs += [(f"class_{place}", f"probability_{place}") for place in range(3, best.shape[1] + 1)]
        if best.shape[1] < 2:  # a model of one class has no runner-up
            found |= dict.fromkeys(pairs.pop(), [None] * n)
        for place, (name, probability) in enumerate(pairs):
            found[name] = spaced(good, [names[each] for each in best[:, place].tolist()])
            found[probability] = spaced(good, sure[:, place].tolist())
        for place, name in enumerate(names):
            found[f"p_{name}"] = spaced(good, block.probability[:, place].tolist())
    if block.features.shape[1]:
        vectors = np.full((n, block.features.shape[1]), np.nan, np.float32)
        vectors[good] = block.features
        found["vector"] = vectors
    return found


def spaced(good: NDArray[np.bool_], values: Sequence[Any]) -> list[Any]:
    """Values of the good rows, in a list of all rows with None in the others."""
    rest: Iterator[Any] = iter(values)
    return [next(rest) if each else None for each in good.tolist()]
