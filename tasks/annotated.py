"""Shared by the evaluations on annotated photographs: the starting network and the photographs' annotations.

This module imports torch and runs in the `train` process, so stage files import it inside `build`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from data.decode import extent_within
from data.draws import key
from data.errors import DataError
from data.schemas import MANIFEST
from data.tables import column, read_table
from data.types import Split
from data.voc import VOID, Objects, VocFolder
from models.evaluation.boxes import Truth
from models.network import Network, build_network
from models.saved import load
from tasks.job import Job

RESAMPLES = 200
"""Number of bootstrap resamples of the test images, for metrics that are not a mean over images."""


class Photographs:
    """The photographs of a job's manifest. Each is scaled as a whole to fit into a square.

    Args:
        job: the stage's job; its sources are folders in VOC's layout.
        side: side of the squares, px; 0 if only the annotations are needed.
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
        """The indices of a split's photographs, ascending."""
        found: NDArray[np.int64] = np.flatnonzero(self._split == split)
        return found

    def extent(self, index: int) -> tuple[int, int]:
        """The (height, width) of a photograph within its square, px."""
        width, height = extent_within(*self._sizes[index], self.side)
        return height, width

    @cached_property
    def objects(self) -> dict[int, Objects]:
        """The annotated objects of each photograph, in pixels of the original photograph."""
        return {index: self._folder.objects(uri) for index, uri in enumerate(self._uri)}

    @cached_property
    def classes(self) -> list[str]:
        """The names of the classes in the training photographs, sorted.

        Raises:
            DataError: the training photographs have no objects, or a class appears only in test photographs.
        """
        train, test = (
            {name for i in self.rows(split) for name in self.objects[i].names} for split in ("train", "test")
        )
        if not train:
            raise DataError(f"{self._folder.spec}: no objects in the annotations of the training photographs")
        if test - train:
            raise DataError(
                f"{self._folder.spec}: class {sorted(test - train)[0]!r} appears only in test photographs; "
                "add training photographs of it"
            )
        return sorted(train)

    def truth(self, index: int) -> Truth:
        """The annotated objects of a photograph, in pixels of its square."""
        seen, (height, width), (w, h) = self.objects[index], self.extent(index), self._sizes[index]
        factors = np.array([width / w, height / h, width / w, height / h], np.float32)
        labels = np.array([self.classes.index(name) for name in seen.names], np.int64)
        return Truth(seen.boxes * factors, labels, seen.difficult)

    def present(self, index: int) -> NDArray[np.float32]:
        """Which classes are in a photograph.

        Returns:
            (C,) float32: 1 if the class is present, 0 if it is absent, -1 if all its objects are marked
            difficult.
        """
        seen = self.objects[index]
        found = np.zeros(len(self.classes), np.float32)
        for name, difficult in zip(seen.names, seen.difficult.tolist(), strict=True):
            at = self.classes.index(name)
            found[at] = 1 if not difficult or found[at] == 1 else -1
        return found

    def mask(self, index: int) -> NDArray[np.uint8] | None:
        """The class of each pixel of a photograph's square.

        Returns:
            (L, L) uint8, with `VOID` outside of the photograph; None if the photograph has no mask.

        Raises:
            DataError: the mask and the photograph differ in size.
        """
        classes = self._folder.classes_of_pixels(self._uri[index])
        if classes is None:
            return None
        if classes.shape[::-1] != self._sizes[index]:
            raise DataError(
                f"{self._folder.spec}: the mask of {self._uri[index]} and the photograph differ in size"
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
    """The network that training starts from: the checkpoint, or an untrained student without one."""
    if "checkpoint" in job.request.inputs:
        return load(job.path("checkpoint"))
    student = job.settings["student"]
    size, seed = job.settings["image_size"], key(job.seed, "student")
    return build_network(student["backbone"], size, width=student["width"], seed=seed)


def resampled(value: Callable[[NDArray[np.int64]], float], n: int, seed: int) -> tuple[float, float]:
    """The 95 % bootstrap interval of a metric over the test images.

    Args:
        value: computes the metric from the positions of some test images. Positions may repeat.
        n: number of test images.
        seed: seeds the resamples.

    Returns:
        The lower and upper end of the interval.
    """
    draws = np.random.default_rng(seed)
    found = [value(np.sort(draws.integers(0, n, n))) for _ in range(RESAMPLES)]
    low, high = np.nanquantile(found, [0.025, 0.975])
    return float(low), float(high)
