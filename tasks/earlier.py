"""Find rows of an earlier artifact to reuse. Images are matched by content, so only new ones are computed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data.reading import recorded_in
from data.store import Store
from data.types import Artifact

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LOOKED_AT = 8
"""How many of the newest artifacts are searched. Without a limit, nightly runs would get ever slower."""


@dataclass(frozen=True)
class Candidate:
    """An artifact that was made in the same way, possibly from other images.

    Attributes:
        meta: path of its meta.json.
        manifest: the manifest of its images.
        splits: the splits of that manifest that it has rows for.
    """

    meta: Path
    manifest: Artifact
    splits: tuple[str, ...]


@dataclass(frozen=True)
class Rows:
    """Rows to reuse.

    Attributes:
        folder: folder of the artifact that has the rows.
        index_of: index in that artifact -> index of the same image in this run's manifest.
    """

    folder: Path
    index_of: dict[int, int]

    @property
    def taken(self) -> NDArray[np.int64]:
        """(n,) int64 the reused images' indices in this run's manifest, ascending."""
        import numpy as np

        return np.sort(np.fromiter(self.index_of.values(), np.int64, len(self.index_of)))


def most_rows(
    store: Store, manifest: Artifact, splits: tuple[str, ...], candidates: Iterable[Candidate]
) -> Rows | None:
    """Find the artifact with the most rows to reuse among the newest ones; None if no artifact has any.

    Images whose wide values were scaled differently, or of which other bands were read, are not the same.

    Args:
        store: the store that holds all artifacts.
        manifest: the manifest of this run's images.
        splits: the splits of that manifest that rows are needed for.
        candidates: artifacts that were made in the same way.
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
    reading = recorded_in(store.meta(manifest))
    for candidate in sorted(candidates, key=lambda one: -one.meta.stat().st_mtime)[:LOOKED_AT]:
        if not (store.folder(candidate.manifest) / "images.parquet").exists():
            continue
        if recorded_in(store.meta(candidate.manifest)) != reading:
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
