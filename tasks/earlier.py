"""Rows that an earlier artifact has, told by the content of the images: only what is new is left to be computed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data.store import Store
from data.types import Artifact

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LOOKED_AT = 8
"""Artifacts that are looked into, the newest first: one more a night would make each night longer than the one before."""


@dataclass(frozen=True)
class Candidate:
    """An artifact made in the same way, maybe of other images.

    Attributes:
        meta: its meta.json, in its folder.
        manifest: of its images.
        splits: which of them it has rows of.
    """

    meta: Path
    manifest: Artifact
    splits: tuple[str, ...]


@dataclass(frozen=True)
class Rows:
    """Rows to take over.

    Attributes:
        folder: of the artifact that has them.
        index_of: its index -> the index of the same image here.
    """

    folder: Path
    index_of: dict[int, int]

    @property
    def taken(self) -> NDArray[np.int64]:
        """(n,) the indices here, ascending."""
        import numpy as np

        return np.sort(np.fromiter(self.index_of.values(), np.int64, len(self.index_of)))


def most_rows(
    store: Store, manifest: Artifact, splits: tuple[str, ...], candidates: Iterable[Candidate]
) -> Rows | None:
    """Of the newest artifacts the one that has the most of these images; None if none has any.

    Args:
        store: of all of them.
        manifest: of the images here.
        splits: which of its images are asked for.
        candidates: artifacts made in the same way.
    """
    import numpy as np

    from data.schemas import MANIFEST
    from data.tables import column, read_table

    def contents(manifest: Artifact) -> tuple[NDArray[np.int64], NDArray[np.str_], NDArray[np.str_]]:
        table = read_table(store.folder(manifest) / "images.parquet", MANIFEST)
        return column(table, "index"), column(table, "sha256").astype(str), column(table, "split").astype(str)

    here, sha, split = contents(manifest)
    asked = np.isin(split, splits)
    wanted = dict(zip(sha[asked].tolist(), here[asked].tolist(), strict=True))
    best: Rows | None = None
    for candidate in sorted(candidates, key=lambda one: -one.meta.stat().st_mtime)[:LOOKED_AT]:
        if not (store.folder(candidate.manifest) / "images.parquet").exists():
            continue
        theirs, their_sha, their_split = contents(candidate.manifest)
        has = np.isin(their_split, candidate.splits)
        found: dict[str, int] = {}
        for i, s in zip(theirs[has].tolist(), their_sha[has].tolist(), strict=True):
            if s in wanted:
                found.setdefault(s, i)
        if found and (best is None or len(found) > len(best.index_of)):
            best = Rows(candidate.meta.parent, {i: wanted[s] for s, i in found.items()})
        if len(found) == len(wanted):
            break
    return best
