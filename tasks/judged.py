"""How classifiers were judged by the drawn labels: the tables that `weigh` writes beside its mixture."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.schemas import CONTENDERS, JUDGED
from data.tables import column, read_table, write_table

MIXTURE = "mixture"
"""Name of the mixture among the classifiers."""
NEIGHBOURS = ("neighbours", "scratch-neighbours")
"""Names of the labels that spread over neighbours: in the features of teacher and student, and of the network
from scratch."""
OWN = 0.9
"""Probability of a drawn label in the targets of its own image; the mixture has the rest."""
CONTENDERS_FILE, JUDGED_FILE = "contenders.parquet", "judged.parquet"


@dataclass(frozen=True)
class Judged:
    """Out-of-fold predictions of n labelled images by several classifiers, and what follows from them.

    Attributes:
        rows: name of a classifier -> its row of contenders.parquet. The last one is the mixture.
        index: (n,) int64 indices of the images.
        right: name -> (n,) bool, whether each image is classified as labelled.
        loss: name -> (n,) float64, -ln of the label's probability.
        counts: (n,) float64, how much each image counts; the mean is 1.
    """

    rows: dict[str, dict[str, Any]]
    index: NDArray[np.int64]
    right: dict[str, NDArray[np.bool_]]
    loss: dict[str, NDArray[np.float64]]
    counts: NDArray[np.float64]

    def accuracy(self, name: str) -> float:
        """Share of the images that a classifier is right about; NaN without images."""
        return float(np.average(self.right[name], weights=self.counts)) if len(self.counts) else float("nan")

    def ahead(self, first: str, second: str) -> tuple[float, float]:
        """By how much the first is right more often than the second, and one standard error of it."""
        return self._mean(self.right[first].astype(np.float64) - self.right[second])

    def likelier(self, first: str, second: str) -> tuple[float, float]:
        """By how much the loss of the first is below that of the second, and one standard error of it."""
        return self._mean(self.loss[second] - self.loss[first])

    def _mean(self, difference: NDArray[np.float64]) -> tuple[float, float]:
        """Mean of paired differences, and its standard error.

        The error is that of Agresti and Min (2005), computed after adding half a trial to each of the four
        outcomes. So it is above 0 even where all differences are 0. Here it is extended to images that count
        differently.
        """
        d = self.counts * difference
        total, square, m = float(d.sum()), float((d**2).sum()) + 1, len(d) + 2
        return total / max(1, len(d)), sqrt(square - total**2 / m) / m


def write_judged(folder: Path, judged: Judged) -> None:
    """Write both tables into the folder of an artifact."""
    rows, n = list(judged.rows.values()), len(judged.index)
    write_table(folder / CONTENDERS_FILE, {key: [row[key] for row in rows] for key in rows[0]}, CONTENDERS)
    columns = {
        "index": np.tile(judged.index, len(rows)),
        "model": np.repeat(list(judged.rows), n),
        "right": np.concatenate([judged.right[name] for name in judged.rows]),
        "loss": np.concatenate([judged.loss[name] for name in judged.rows]),
        "counts": np.tile(judged.counts, len(rows)),
    }
    write_table(folder / JUDGED_FILE, columns, JUDGED)


def read_judged(folder: Path) -> Judged:
    """Read both tables of an artifact of `weigh`.

    Raises:
        ArtifactError: a file is missing or damaged.
    """
    rows = {row["model"]: row for row in read_table(folder / CONTENDERS_FILE, CONTENDERS).to_pylist()}
    table = read_table(folder / JUDGED_FILE, JUDGED)
    model = column(table, "model")
    right, loss = column(table, "right").astype(bool), column(table, "loss").astype(np.float64)
    first = model == next(iter(rows))
    return Judged(
        rows,
        column(table, "index")[first],
        {name: right[model == name] for name in rows},
        {name: loss[model == name] for name in rows},
        column(table, "counts")[first].astype(np.float64),
    )
