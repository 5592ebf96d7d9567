"""Find rows of an earlier artifact to reuse. Images are matched by content, so only new ones are computed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data.errors import DamagedError
from data.reading import recorded_in
from data.store import Meta, Store
from data.types import Artifact
from tasks.job import Job

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LOOKED_AT = 8
"""How many of the newest artifacts are searched. Without a limit, nightly runs would get ever slower."""


@dataclass(frozen=True)
class Candidate:
    """An artifact that was made in the same way, possibly from other images.

    Attributes:
        artifact: the artifact.
        manifest: the manifest of its images.
        splits: the splits of that manifest that it has rows for.
    """

    artifact: Artifact
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


def others(job: Job, kind: str) -> Iterator[tuple[Artifact, Meta]]:
    """The artifacts of a kind in the store, with their meta.json. Damaged ones are set aside and left out."""
    for artifact in job.store.artifacts(kind):
        try:
            yield artifact, job.store.meta(artifact)
        except DamagedError as error:
            _leave_out(job, error)


def most_rows(
    job: Job, manifest: Artifact, splits: tuple[str, ...], candidates: Iterable[Candidate]
) -> Rows | None:
    """Find the artifact with the most rows to reuse among the newest ones; None if no artifact has any.

    Images whose wide values were scaled differently, or of which other bands were read, are not the same. The
    files of an artifact are hashed before its rows are reused. A damaged one is set aside and left out.

    Args:
        job: the job that needs the rows.
        manifest: the manifest of this run's images.
        splits: the splits of that manifest that rows are needed for.
        candidates: artifacts that were made in the same way.
    """
    import numpy as np

    from data.schemas import MANIFEST
    from data.tables import column, read_table

    store = job.store

    def contents(manifest: Artifact) -> tuple[NDArray[np.int64], NDArray[np.str_], NDArray[np.str_]]:
        table = read_table(store.whole(manifest) / "images.parquet", MANIFEST)
        return column(table, "index"), column(table, "sha256").astype(str), column(table, "split").astype(str)

    here, sha, split = contents(manifest)
    asked = np.isin(split, splits)
    wanted = dict(zip(sha[asked].tolist(), here[asked].tolist(), strict=True))
    best: Rows | None = None
    reading = recorded_in(store.meta(manifest))
    for candidate in sorted(candidates, key=lambda one: -_made(store, one.artifact))[:LOOKED_AT]:
        found: dict[str, int] = {}
        try:
            if not store.has(candidate.manifest) or recorded_in(store.meta(candidate.manifest)) != reading:
                continue
            theirs, their_sha, their_split = contents(candidate.manifest)
            has = np.isin(their_split, candidate.splits)
            for i, s in zip(theirs[has].tolist(), their_sha[has].tolist(), strict=True):
                if s in wanted:
                    found.setdefault(s, i)
            if found and (best is None or len(found) > len(best.index_of)):
                best = Rows(store.whole(candidate.artifact), {i: wanted[s] for s, i in found.items()})
        except DamagedError as error:
            _leave_out(job, error)
            continue
        if len(found) == len(wanted):
            break
    return best


def _made(store: Store, artifact: Artifact) -> float:
    """When an artifact was made; 0 if it is gone by now."""
    try:
        return (store.folder(artifact) / "meta.json").stat().st_mtime
    except OSError:
        return 0.0


def _leave_out(job: Job, error: DamagedError) -> None:
    job.log(f"no rows are taken over from {error.artifact.path}: {error.finding}")
    job.set_aside(error.artifact)
