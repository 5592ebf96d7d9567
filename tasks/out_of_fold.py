"""Write and read out-of-fold predictions. They are in the classifier's artifact, in `out_of_fold.parquet`."""

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
    """Write out-of-fold predictions.

    Args:
        folder: folder of the artifact.
        index: (n,) indices of the images.
        label: (n,) classes of these images.
        logits: (n, C). Each row comes from a classifier that did not learn this image's label.
    """
    columns = {"index": index, "label": label, "logit": list(np.asarray(logits, np.float32))}
    write_table(folder / FILE, columns, out_of_fold(logits.shape[1]))


def read_out_of_fold(folder: Path, balanced: bool = False) -> tuple[NDArray[np.int64], OutOfFold]:
    """Read out-of-fold predictions: index (n,) in ascending order, and the predictions in the same order.

    Args:
        folder: folder of the artifact.
        balanced: whether each class counts the same (`OutOfFold.balanced`).

    Raises:
        ArtifactError: the file is missing or damaged.
    """
    table = read_table(folder / FILE)
    index, logits = column(table, "index"), read_matrix(table, "logit").astype(np.float64)
    order = np.argsort(index)
    label = column(table, "label").astype(np.int64)
    return index[order], OutOfFold(label[order], logits[order], balanced)
