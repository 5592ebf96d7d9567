"""Write and read out-of-fold predictions, which lie beside a classifier as `out_of_fold.parquet`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.schemas import out_of_fold
from data.tables import column, read_matrix, read_table, write_table
from models.evaluation.contenders import OutOfFold

FILE = "out_of_fold.parquet"


def write_out_of_fold(
    folder: Path, index: NDArray[np.int64], label: NDArray[np.integer], logits: NDArray[np.floating]
) -> None:
    """Write predictions.

    Args:
        folder: folder of the artifact.
        index: (n,) indices of the images.
        label: (n,) their classes.
        logits: (n, C), each row by a classifier that did not learn this image's label.
    """
    columns = {"index": index, "label": label, "logit": list(np.asarray(logits, np.float32))}
    write_table(folder / FILE, columns, out_of_fold(logits.shape[1]))


def read_out_of_fold(folder: Path, balanced: bool = False) -> tuple[NDArray[np.int64], OutOfFold]:
    """Read predictions: index (n,) ascending, and the predictions in the same order.

    Args:
        folder: folder of the artifact.
        balanced: whether each class shall count the same (`OutOfFold.balanced`).

    Raises:
        ArtifactError: the file is missing or damaged.
    """
    table = read_table(folder / FILE)
    index, logits = column(table, "index"), read_matrix(table, "logit").astype(np.float64)
    order = np.argsort(index)
    label = column(table, "label").astype(np.int64)
    return index[order], OutOfFold(label[order], logits[order], balanced)
