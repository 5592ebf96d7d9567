"""Write and read which images the final student did not learn, in the artifact of the student."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.schemas import INDICES
from data.tables import column, read_table, write_table

FILE = "unseen.parquet"


def write_unseen(folder: Path, index: NDArray[np.int64]) -> None:
    """Write the indices of the images, (n,) int64.

    Args:
        folder: folder of the artifact.
        index: the indices.
    """
    write_table(folder / FILE, {"index": index}, INDICES)


def read_unseen(folder: Path) -> NDArray[np.int64]:
    """Read the indices of the images, (n,) int64; none if the student learned all images.

    Args:
        folder: folder of the artifact.

    Raises:
        ArtifactError: the file is damaged.
    """
    if not (folder / FILE).exists():
        return np.zeros(0, np.int64)
    return column(read_table(folder / FILE, INDICES), "index").astype(np.int64)
