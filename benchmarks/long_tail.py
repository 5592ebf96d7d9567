"""Write a long-tailed part of a labelled Parquet file: from class to class there are fewer images.

    python -m benchmarks.long_tail TRAIN.parquet OUT.parquet --imbalance 50 --largest 1000

The class at place c of C keeps largest * imbalance^(-c / (C - 1)) images (Cui et al. 2019, section 5.1). They
are drawn with a seed. `benchmarks.own_photos` measures on such a file what uneven labels do.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data.draws import key, permutation


def rows_of(label: NDArray[np.integer], imbalance: float, largest: int, seed: int = 0) -> NDArray[np.int64]:
    """Which images stay: (N,) classes -> ascending positions.

    Args:
        label: (N,) classes, at least two different ones.
        imbalance: R, at least 1.
        largest: images of the first class.
        seed: of the draw.

    Raises:
        ValueError: a class has fewer images than it has to keep.
    """
    classes = np.unique(label)
    kept = []
    for c, name in enumerate(classes):
        want = max(1, round(largest * imbalance ** (-c / (len(classes) - 1))))
        members = np.flatnonzero(label == name)
        if len(members) < want:
            raise ValueError(f"class {name} has {len(members)} images, but {want} are asked for")
        kept.append(members[permutation(key(seed, "long tail", int(name)), len(members))[:want]])
    return np.sort(np.concatenate(kept))


def main() -> None:
    """Read, choose, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("train", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--imbalance", type=float, default=50.0)
    parser.add_argument("--largest", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    table = pq.read_table(a.train)
    label = table["label"].to_numpy()
    rows = rows_of(label, a.imbalance, a.largest, a.seed)
    pq.write_table(table.take(rows), a.out, row_group_size=1000)
    print(f"{len(rows)} images, by class: {np.bincount(label[rows]).tolist()}")


if __name__ == "__main__":
    main()
