"""Which train images become test images if there is no test source."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data import draws
from data.errors import StoreError, repair
from data.files import read_sealed, write_sealed

HELD_OUT = 0.2
"""Share of the train images that become test images if no test source is given."""

_SIDES = pa.schema(
    [pa.field("uri", pa.string(), nullable=False), pa.field("held_out", pa.bool_(), nullable=False)]
)


def hold_out(
    seed: int,
    uris: Sequence[str],
    labels: Sequence[int | None],
    groups: NDArray[np.int64],
    before: Mapping[str, bool],
) -> NDArray[np.bool_]:
    """Choose the images that become test images.

    An image is held out with probability `HELD_OUT`. The choice depends only on the seed and the image's uri,
    so a new image does not change the side of another one. The number of images that a class loses to the
    test is binomial: for 1,000 images, 200 with a standard deviation of 13. Three rules change this for few
    images:

    - Images of one group (twins) go to the same side.
    - A class with two groups or more has at least one of them on each side. A class with one group stays in
      train.
    - An image stays on the side where it was before.

    Args:
        seed: seed of the choice.
        uris: N uris.
        labels: class of each image, or None.
        groups: (N,) int64; images of the same number belong together.
        before: uri -> whether the image was held out before.

    Returns:
        (N,) bool, True for test.
    """
    draw = _uniform(seed, uris)
    order = np.lexsort((draw, groups))
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1) != 0)
    members = np.split(order, starts[1:]) if len(order) else []
    # The image with the smallest uri decides for its group. It is the same one whatever the order.
    first = np.array([min(group.tolist(), key=uris.__getitem__) for group in members], np.int64)
    known = [next((before[uris[i]] for i in group.tolist() if uris[i] in before), None) for group in members]
    side = np.array(
        [draw[i] < HELD_OUT if told is None else told for i, told in zip(first, known, strict=True)], bool
    )
    of_class: dict[int, set[int]] = {}
    for number, group in enumerate(members):
        for i in group.tolist():
            label = labels[i]
            if label is not None:
                of_class.setdefault(label, set()).add(number)
    for label in sorted(of_class):
        # If a class has no group on one side, move a group that is new rather than one that had its side
        # before.
        numbers = sorted(of_class[label], key=lambda number: draw[first[number]])
        new = [number for number in numbers if known[number] is None] or numbers
        there = [number for number in numbers if side[number]]
        if len(numbers) == 1:
            side[numbers[0]] &= known[numbers[0]] is not None
        elif not there:
            side[new[0]] = True
        elif len(there) == len(numbers):
            side[new[-1]] = False
    chosen = np.zeros(len(uris), bool)
    for group, out in zip(members, side, strict=True):
        chosen[group] = out
    return chosen


def _uniform(seed: int, uris: Sequence[str]) -> NDArray[np.float64]:
    key = draws.key(seed, "held out").to_bytes(8, "little")
    hashes = (hashlib.blake2b(uri.encode(), digest_size=8, key=key).digest() for uri in uris)
    return (np.frombuffer(b"".join(hashes), "<u8") >> np.uint64(11)).astype(np.float64) * 2.0**-53


def read_sides(path: Path) -> dict[str, bool]:
    """Read which images were held out before; none is known without a file.

    Raises:
        StoreError: the file is damaged. Only it knows which images of a folder that has grown are the test
            images, so it is not made again silently.
    """
    try:
        content = read_sealed(path)
        table = None if content is None else pq.read_table(pa.BufferReader(content), schema=_SIDES)
    except FileNotFoundError:
        return {}
    except (OSError, pa.ArrowException):
        table = None
    if table is None:
        raise StoreError(
            f"{path} is damaged; it says which images are held out for the test: restore it from a backup, "
            f"or let new test images be drawn, by `{repair(path.parents[2])}`, which sets it aside"
        )
    return dict(zip(table["uri"].to_pylist(), table["held_out"].to_pylist(), strict=True))


def write_sides(path: Path, sides: Mapping[str, bool]) -> None:
    """Remember which images are held out. The file is replaced as a whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"uri": list(sides), "held_out": list(sides.values())}, schema=_SIDES)
    content = pa.BufferOutputStream()
    pq.write_table(table, content, compression="zstd")
    write_sealed(path, content.getvalue().to_pybytes())
