"""Look after a store: show what it holds, verify every file, and delete what no run needs.

These are the commands `knowledge-transfer store list`, `verify` and `gc`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from data.errors import ConfigError, DamagedError, StoreError, repair
from data.files import Checked, intact, read_sealed
from data.store import Store
from data.types import Artifact
from flows.phrases import storage
from flows.records import SCORES, alive, note_deaths, original_scores, read_record, records

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Row:
    """A kind of things in a store.

    Attributes:
        place: their folder, relative to the store.
        count: their number.
        bytes: their size on disk.
    """

    place: str
    count: int
    bytes: int


@dataclass(frozen=True)
class Contents:
    """What a store holds.

    Attributes:
        store: its folder.
        rows: one per kind of artifact, and one each for drafts, damaged artifacts, caches and runs.
        runs: name -> status of every run with a readable record, the latest first.
        died: names of runs whose record said "running" until now, although their process was gone.
    """

    store: str
    rows: tuple[Row, ...]
    runs: dict[str, str]
    died: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """JSON values."""
        return {"status": "done", **asdict(self), "bytes": sum(row.bytes for row in self.rows)}

    def as_text(self) -> str:
        """A table with the size of each kind, and the number of runs by status."""
        lines = [f"store {self.store}"]
        lines += [f"  {row.place:<28}{row.count:>8,}  {storage(row.bytes):>10}" for row in self.rows]
        lines.append(f"  {'all':<28}{'':>8}  {storage(sum(row.bytes for row in self.rows)):>10}")
        counts: dict[str, int] = defaultdict(int)
        for status in self.runs.values():
            counts[status] += 1
        if counts:
            lines.append("runs: " + ", ".join(f"{count:,} {status}" for status, count in counts.items()))
        lines += [
            f"run {name} is waiting for you: press Resume on its page in Prefect "
            "(if you cancelled it there, the next run on this store will note that)"
            for name, status in self.runs.items()
            if status == "waiting"
        ]
        lines += [f"run {name} died: its record now says that it failed" for name in self.died]
        return "\n".join(lines)


def contents(store: Store) -> Contents:
    """List what a store holds. No file is read but the runs' records."""
    died = tuple(note_deaths(store))
    places = [
        *(f"artifacts/{path.name}" for path in sorted((store.root / "artifacts").iterdir()) if path.is_dir()),
        *(f"cache/{path.name}" for path in sorted((store.root / "cache").glob("*")) if path.is_dir()),
        "drafts",
        "damaged",
        "runs",
    ]
    rows = []
    for place in places:
        folder = store.root / place
        deep = "*/*" if place in ("drafts", "damaged") else "*"
        count = sum(1 for _ in folder.glob(deep))
        if count:
            rows.append(Row(place, count, _bytes(folder)))
    runs = {folder.name: str(record["status"]) for folder, record in records(store)}
    return Contents(str(store.root), tuple(rows), runs, died)


@dataclass(frozen=True)
class Damage:
    """A damaged file.

    Attributes:
        file: its path, relative to the store.
        reason: what is wrong with it.
        done: what was done about it; empty if nothing was.
    """

    file: str
    reason: str
    done: str


@dataclass(frozen=True)
class Verified:
    """What `verify` found.

    Attributes:
        store: the store's folder.
        artifacts: number of artifacts.
        bytes: number of bytes that were read.
        damaged: the damaged files.
        repaired: whether these were set aside or deleted.
    """

    store: str
    artifacts: int
    bytes: int
    damaged: tuple[Damage, ...]
    repaired: bool

    def as_json(self) -> dict[str, Any]:
        """JSON values."""
        return {"status": "done", **asdict(self)}

    def as_text(self) -> str:
        """One line per damaged file, and a line about all."""
        lines = [
            f"{damage.file} {damage.reason}{damage.done and '; '}{damage.done}" for damage in self.damaged
        ]
        read = f"{self.artifacts:,} artifacts and the cache, {storage(self.bytes)}"
        if not self.damaged:
            return f"{read}: every file is what was written"
        what = "the next run makes again what it needs" if self.repaired else f"`{repair(Path(self.store))}`"
        return "\n".join([*lines, f"{read}: {len(self.damaged):,} damaged; {what}"])


def verify(store: Store, *, repair: bool, progress: Progress = lambda done, total: None) -> Verified:
    """Read and hash every file of a store that has a known hash. Memory holds one block of a file.

    Args:
        store: the store.
        repair: whether to move damaged artifacts to STORE/damaged, to delete damaged files of the cache, and
            to copy scores and report into a run's folder again.
        progress: gets the megabytes read and those of all.
    """
    found: list[Damage] = []
    artifacts = list(store.artifacts())
    total = _bytes(store.root / "artifacts") + _bytes(store.root / "cache") + _bytes(store.root / "drafts")
    done = 0

    def read(more: int) -> None:
        nonlocal done
        done += more
        progress(done >> 20, max(total >> 20, 1))

    def inside(path: Path) -> str:
        return path.relative_to(store.root).as_posix()

    with store.in_use():
        read(0)
        for artifact in artifacts:
            bytes_ = _bytes(store.folder(artifact))
            damage = store.damage(artifact, checked=Checked())
            if damage is not None and store.folder(artifact).exists():  # or another process set it aside
                moved = store.set_aside(artifact) if repair else None
                file = inside(store.folder(artifact) / damage.file)
                found.append(
                    Damage(file, damage.reason, f"it is set aside in {moved.place}" if moved else "")
                )
            read(bytes_)
        for path, reason in _damaged_elsewhere(store, read):
            if repair:
                _remove(path)
            found.append(Damage(inside(path), reason, "it is deleted" if repair else ""))
        broken: list[Path] = []
        for folder, record in records(store, broken.append):
            for copied, again in _copies(store, folder, record):
                if repair:
                    again()
                reason = "is not the copy that was written"
                found.append(Damage(inside(copied), reason, "it is copied again" if repair else ""))
        for path in sorted(broken):
            aside = path.with_name("run.json.damaged")
            if repair:
                path.rename(aside)
            moved_to = f"it is now {aside.name}; the run's command writes a new record" if repair else ""
            found.append(Damage(inside(path), "is not the record that was written", moved_to))
    return Verified(str(store.root), len(artifacts), done, tuple(found), repair)


def _damaged_elsewhere(store: Store, read: Callable[[int], None]) -> Iterator[tuple[Path, str]]:
    """Damaged files of the cache, and damaged states of trainings that could be resumed."""
    from data import packs

    other = "has other content than was written"
    for folder in sorted((store.root / "cache").glob("*")):
        for path in packs.damaged(folder, read):
            yield path, "is not what was written, or is from an earlier version"
        for path in sorted(folder.glob("*.parquet")) + sorted(folder.glob("*.json")):
            read(path.stat().st_size)
            if not _sound(path):
                yield path, other
    for path in sorted((store.root / "drafts").glob("*/*/state/*.pt")):
        read(path.stat().st_size)
        if not intact(path):
            yield path, other


def _sound(path: Path) -> bool:
    """Whether a small file of the cache is unchanged. If it has no seal, it must be readable."""
    content = read_sealed(path)
    if content is None:
        return False
    if path.suffix == ".json":
        try:
            json.loads(content)
        except ValueError:
            return False
        return True
    return content[-4:] == b"PAR1"


def _remove(path: Path) -> None:
    if path.suffix == ".sha":
        from data import packs

        packs.delete(path)
    path.unlink(missing_ok=True)


def _copies(
    store: Store, folder: Path, record: dict[str, Any]
) -> Iterator[tuple[Path, Callable[[], object]]]:
    """The damaged copies of scores and report in a run's folder, and functions that copy them again."""
    from tasks.report.stamp import stamp, write_stamped

    scores = original_scores(folder, record)
    if scores is not None:
        yield folder / SCORES, partial(shutil.copyfile, scores, folder / SCORES)
    made = next((row for row in record["stages"] if row["stage"] == "report"), None)
    if record["status"] != "done" or made is None:
        return
    try:
        page = store.whole(Artifact(kind=made["kind"], fingerprint=made["fingerprint"])) / "report.html"
    except DamagedError:
        return
    copy, about = folder / page.name, (str(record["name"]), str(record["started"]))
    expected = stamp(page.read_text(encoding="utf-8"), *about).encode()
    if not copy.exists() or copy.read_bytes() != expected:
        yield copy, partial(write_stamped, page, copy, *about)


@dataclass(frozen=True)
class Collected:
    """What `collect` deleted, or would delete.

    Attributes:
        store: the store's folder.
        rows: one per kind of thing.
        dry_run: whether nothing was deleted.
        resumable: number of drafts of trainings that can be resumed; they are kept.
    """

    store: str
    rows: tuple[Row, ...]
    dry_run: bool
    resumable: int

    def as_json(self) -> dict[str, Any]:
        """JSON values."""
        return {"status": "done", **asdict(self), "bytes": sum(row.bytes for row in self.rows)}

    def as_text(self) -> str:
        """One line per kind, and one about all."""
        lines = [f"  {row.place:<28}{row.count:>8,}  {storage(row.bytes):>10}" for row in self.rows]
        what = "would be deleted" if self.dry_run else "deleted"
        lines.append(f"{storage(sum(row.bytes for row in self.rows))} {what} in {self.store}")
        if self.resumable:
            lines.append(
                f"{self.resumable:,} stopped trainings are kept in drafts, to be resumed; delete their "
                "folders if nobody will"
            )
        return "\n".join(lines)


def collect(store: Store, *, dry_run: bool) -> Collected:
    """Delete what no run in the store needs: artifacts, damaged artifacts, and files of the cache.

    A run needs the artifacts that its record names, and all artifacts that these were made from. If you no
    longer need a run, delete its folder first. The model that a run ships is among its artifacts.

    Args:
        store: the store.
        dry_run: only find out what would be deleted.

    Raises:
        StoreError: a run is alive, or another command uses the store.
        ConfigError: a run's record is damaged, so nobody knows what it needs.
        DamagedError: an artifact that a run needs is damaged, so nobody knows what it was made from.
    """
    note_deaths(store)
    living = [
        folder.name for folder, record in records(store) if record["status"] == "running" and alive(folder)
    ]
    if living:
        raise StoreError(
            f"store {str(store.root)!r} is in use by run {living[0]}; give the command again when it has "
            f"ended (if its machine is gone, delete {store.root / 'runs' / living[0] / 'alive'} first)"
        )
    with store.alone():
        gone = list(_unneeded(store))
        rows: dict[str, list[int]] = defaultdict(list)
        for path in gone:
            rows[path.parent.relative_to(store.root).as_posix()].append(_bytes(path))
            if not dry_run:
                _delete(store, path)
        found = tuple(Row(place, len(sizes), sum(sizes)) for place, sizes in sorted(rows.items()))
        resumable = len({path.parents[1] for path in (store.root / "drafts").glob("*/*/state/*")})
        return Collected(str(store.root), found, dry_run, resumable)


def _needed(store: Store) -> set[Artifact]:
    needed: set[Artifact] = set()
    runs = store.root / "runs"
    if not runs.is_dir():
        raise StoreError(
            f"{runs} is missing, so nobody knows what is needed; restore it, or make an empty one"
        )
    for folder in sorted(runs.iterdir()):
        if not folder.is_dir() or not any(folder.iterdir()):
            continue
        try:
            record = read_record(folder)
        except ConfigError:
            raise ConfigError(
                f"{folder / 'run.json'} is missing or damaged, so nobody knows what this run needs; delete "
                f"{folder} if you don't need the run, then give the command again"
            ) from None
        needed |= {Artifact(kind=row["kind"], fingerprint=row["fingerprint"]) for row in record["stages"]}
    open_ends = list(needed)
    while open_ends:
        artifact = open_ends.pop()
        try:
            inputs = store.meta(artifact).get("inputs", {})
        except DamagedError as damage:
            if damage.file:
                raise  # nobody knows what it was made from, so nobody knows what can be deleted
            continue
        more = {Artifact.model_validate(given) for given in inputs.values()} - needed
        needed |= more
        open_ends += more
    return needed


def _unneeded(store: Store) -> Iterator[Path]:
    """Folders and files that no run needs."""
    needed = _needed(store)
    yield from (store.folder(artifact) for artifact in store.artifacts() if artifact not in needed)
    yield from sorted((store.root / "damaged").glob("*/*"))
    yield from sorted((store.root / "drafts").glob(".removed-*"))
    for folder in sorted((store.root / "drafts").glob("*/*/")):
        if not any((folder / "state").glob("*")):
            yield folder
    yield from sorted((store.root / "cache").glob("*/*.part"))
    yield from _unneeded_pixels(store, {artifact for artifact in needed if artifact.kind == "manifest"})


def _unneeded_pixels(store: Store, manifests: set[Artifact]) -> Iterator[Path]:
    """Files of packed or copied images that hold no image of a needed manifest."""
    from data import packs
    from data.schemas import MANIFEST
    from data.tables import read_table

    images: set[bytes] = set()
    copies: set[str] = set()
    for manifest in manifests:
        try:
            table = read_table(store.whole(manifest) / "images.parquet", MANIFEST)
        except DamagedError:
            continue
        hashes = table["sha256"].to_pylist()
        images |= {bytes.fromhex(sha256) for sha256 in hashes}
        copies.add(hashlib.sha256("\n".join(hashes).encode()).hexdigest()[:32])
    for folder in sorted((store.root / "cache").glob("*")):
        for index in sorted(folder.glob("squares-*.sha")):
            if images.isdisjoint(packs.hashes_in(index)):
                yield from (index, index.with_suffix(".npy"))
        for squares in sorted(folder.glob("squares-*.npy")):
            if not squares.with_suffix(".sha").exists():  # its writer was killed
                yield squares
        for copy in sorted(folder.glob("encoded-*.bin")):
            if copy.stem.removeprefix("encoded-") not in copies:
                yield copy


def _delete(store: Store, path: Path) -> None:
    """Delete a file or a folder. A folder is moved away first, so that none stays half-deleted."""
    if path.is_dir():
        gone = store.root / "drafts" / f".removed-{uuid.uuid4().hex}"
        gone.parent.mkdir(exist_ok=True)
        path.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _bytes(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    total = 0
    for file in path.rglob("*"):
        try:
            total += file.stat().st_size if file.is_file() else 0
        except FileNotFoundError:
            continue  # another process has just deleted it
    return total
