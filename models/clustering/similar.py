"""The images whose features are most similar to given ones, by exact search for the largest cosine."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from data.tables import read_vectors


def most_similar(
    folder: str, vectors: NDArray[np.float32], count: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Search the features of a folder. The folder's index stays in this process for the next call.

    Args:
        folder: a features artifact of N images.
        vectors: (n, D) float32, what is searched for.
        count: number of images per row, at least 1.

    Returns:
        The manifest's index (n, m) int64 and cosine (n, m) float32 in [-1, 1], most similar first, where m is
        the smaller of `count` and N. A vector of zeros has the cosine 0 with every other.

    Raises:
        ArtifactError: the features can't be read.
    """
    index, searched = _opened(folder)
    cosine, row = searched.search(unit(vectors), min(count, len(index)))
    return index[row], np.clip(cosine, -1, 1)


@lru_cache(maxsize=1)
def _opened(folder: str) -> tuple[NDArray[np.int64], Any]:
    index, vectors = read_vectors(Path(folder))
    searched = faiss.IndexFlatIP(vectors.shape[1])
    for start in range(0, len(vectors), 1 << 16):
        searched.add(unit(vectors[start : start + (1 << 16)]))
    return index, searched


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vectors of length 1 in the same directions; those of length 0 stay."""
    x = np.ascontiguousarray(vectors, np.float32)
    length = np.sqrt(np.einsum("nd,nd->n", x, x))[:, None]
    return np.divide(x, np.where(length > 0, length, 1), dtype=np.float32)
