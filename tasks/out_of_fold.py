"""Write and read what classifiers of the folds say, in the artifact of the classifier that they judge.

Their predictions are in `out_of_fold.parquet`. A classifier may also have the features of its folds'
networks, each in a folder of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.schemas import INDICES, features, out_of_fold
from data.tables import VectorWriter, column, read_matrix, read_table, read_vectors, write_table
from models.evaluation.contenders import OutOfFold

FILE = "out_of_fold.parquet"
LEFT_OUT_FILE = "left_out.parquet"


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


@dataclass(frozen=True)
class Fold:
    """What the network of a fold, which did not learn the fold's labels, makes of images.

    Attributes:
        left_out: (n,) int64 indices of the labelled images that it did not learn.
        index: (N,) int64 indices of the images, ascending. They include all labelled ones.
        features: (N, D) float32 outputs of the layer below the classifier.
    """

    left_out: NDArray[np.int64]
    index: NDArray[np.int64]
    features: NDArray[np.float32]


def write_fold(folder: Path, number: int, fold: Fold, layer: str) -> None:
    """Write the features of a fold's network.

    Args:
        folder: folder of the artifact.
        number: the fold's number.
        fold: what to write.
        layer: name of the layer.
    """
    place = folder / f"fold-{number}"
    place.mkdir()
    write_table(place / LEFT_OUT_FILE, {"index": fold.left_out}, INDICES)
    with VectorWriter(place, features(fold.features.shape[1], f"fold {number}", layer)) as out:
        out.write(fold.index, fold.features)


def read_folds(folder: Path) -> Iterator[Fold]:
    """Read the features of all folds, one after the other.

    Args:
        folder: folder of the artifact.

    Raises:
        ArtifactError: a file is missing or damaged.
    """
    for place in sorted(folder.glob("fold-*/")):
        left_out = column(read_table(place / LEFT_OUT_FILE, INDICES), "index").astype(np.int64)
        yield Fold(left_out, *read_vectors(place))
