"""What the evaluations on photographs with annotations share: which network starts, and what is in the photographs.

Imports torch and belongs to the `train` process; stage files import it inside `build`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from data.decode import extent_within
from data.draws import key
from data.errors import DataError
from data.schemas import MANIFEST, SCORES
from data.tables import column, read_table, write_table
from data.types import Split
from data.voc import VOID, Objects, VocFolder
from models.evaluation.boxes import Truth
from models.network import Network, build_network
from tasks import training
from tasks.stage import Job, Outcome

RESAMPLES = 200
"""Of the test images, for intervals of what is no mean over images."""


class Photographs:
    """The photographs of a job's manifest, whole, each within a square.

    Args:
        job: whose sources are folders in VOC's layout.
        side: of the squares, px; 0 where sizes don't matter.
    """

    def __init__(self, job: Job, side: int) -> None:
        self.job, self.side = job, side
        table = read_table(job.path("manifest") / "images.parquet", MANIFEST)
        self._uri = table["uri"].to_pylist()
        self._split = column(table, "split").astype(str)
        sizes = zip(column(table, "width").tolist(), column(table, "height").tolist(), strict=True)
        self._sizes: list[tuple[int, int]] = list(sizes)
        spec = job.request.outside["sources"]["train"]
        self._folder = VocFolder(spec, spec.removeprefix("voc:"))

    def rows(self, split: Split) -> NDArray[np.int64]:
        """Index of the photographs of a split, ascending."""
        found: NDArray[np.int64] = np.flatnonzero(self._split == split)
        return found

    def extent(self, index: int) -> tuple[int, int]:
        """(height, width) of a photograph within its square, px."""
        width, height = extent_within(*self._sizes[index], self.side)
        return height, width

    @cached_property
    def objects(self) -> dict[int, Objects]:
        """What is in each photograph, in its own px."""
        return {index: self._folder.objects(uri) for index, uri in enumerate(self._uri)}

    @cached_property
    def classes(self) -> list[str]:
        """Names of what is in the training photographs, sorted.

        Raises:
            DataError: there is nothing in them, or test photographs have a class that they haven't.
        """
        train, test = (
            {name for i in self.rows(split) for name in self.objects[i].names} for split in ("train", "test")
        )
        if not train:
            raise DataError(f"{self._folder.spec}: no objects in the annotations of the training photographs")
        if test - train:
            raise DataError(f"{self._folder.spec}: {sorted(test - train)[0]!r} is in test photographs alone")
        return sorted(train)

    def truth(self, index: int) -> Truth:
        """What is in a photograph, in px of its square."""
        seen, (height, width), (w, h) = self.objects[index], self.extent(index), self._sizes[index]
        factors = np.array([width / w, height / h, width / w, height / h], np.float32)
        labels = np.array([self.classes.index(name) for name in seen.names], np.int64)
        return Truth(seen.boxes * factors, labels, seen.difficult)

    def present(self, index: int) -> NDArray[np.float32]:
        """(C,) 1 for classes that are in a photograph, 0 for those that are not, -1 for those that only difficult are."""
        seen = self.objects[index]
        found = np.zeros(len(self.classes), np.float32)
        for name, difficult in zip(seen.names, seen.difficult.tolist(), strict=True):
            at = self.classes.index(name)
            found[at] = 1 if not difficult or found[at] == 1 else -1
        return found

    def mask(self, index: int) -> NDArray[np.uint8] | None:
        """(L, L) classes of the pixels of a photograph's square, `VOID` outside of it; None where it has no mask."""
        classes = self._folder.classes_of_pixels(self._uri[index])
        if classes is None:
            return None
        if classes.shape[::-1] != self._sizes[index]:
            raise DataError(
                f"{self._folder.spec}: the mask of {self._uri[index]} is of another size than the photograph"
            )
        height, width = self.extent(index)
        rows, columns = (
            np.minimum((np.arange(new) + 0.5) * old / new, old - 1).astype(int)
            for new, old in zip((height, width), classes.shape, strict=True)
        )
        square = np.full((self.side, self.side), VOID, np.uint8)
        square[:height, :width] = classes[np.ix_(rows, columns)]
        return square


def start(job: Job) -> Network:
    """The network whose layers are used: the checkpoint's, or the same kind of one untrained."""
    if "checkpoint" in job.request.inputs:
        return training.load(job.path("checkpoint"))
    student = job.settings["student"]
    size, seed = job.settings["image_size"], key(job.seed, "student")
    return build_network(student["backbone"], size, width=student["width"], seed=seed)


def resampled(value: Callable[[NDArray[np.int64]], float], n: int, seed: int) -> tuple[float, float]:
    """95 % bootstrap interval over n test images of what `value` makes of some of them (positions, with repeats)."""
    draws = np.random.default_rng(seed)
    found = [value(np.sort(draws.integers(0, n, n))) for _ in range(RESAMPLES)]
    low, high = np.nanquantile(found, [0.025, 0.975])
    return float(low), float(high)


def publish(job: Job, evaluation: str, rows: Iterable[tuple[str, str, float]], n: int) -> Outcome:
    """Write scores: (metric, setting, value) of the job's model on n test images."""
    model, seed = job.settings["model"], job.seed
    table = [(evaluation, model, metric, "test", setting, float(value), seed, n) for metric, setting, value in rows]
    columns = dict(zip(SCORES.names, zip(*table, strict=True), strict=True))
    return Outcome(rows=write_table(job.out / "scores.parquet", columns, SCORES))
