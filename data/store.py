"""The store: the folder that holds artifacts, drafts and runs, and how an artifact is published and read.

An artifact is named by its fingerprint, a hash of what was asked for. It is built in a draft folder under a
lock. Its `meta.json` is written last, and then one rename moves it into place. A crash leaves a draft, but
never half an artifact. If two runs want the same artifact, one builds it and the other uses it.

Code that reads an artifact gets its folder from `Store.whole`, which hashes the files once per run. A damaged
artifact is set aside, never deleted, and computed again.

    STORE/artifacts/<kind>/<fingerprint>/   finished artifacts, which never change
    STORE/drafts/<kind>/<fingerprint>/      lock, out/ (becomes the artifact), state/ (to resume from)
    STORE/damaged/<kind>/<fingerprint>-N/   artifacts that were found damaged
    STORE/cache/                            what can be recomputed: packed images, remembered hashes
    STORE/runs/<name>/                      run.json, config.yaml, log.txt, scores.parquet, report.html
    STORE/lock                              held by everyone who uses the store, so that nothing is deleted
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from errno import EACCES, EEXIST, ENOTEMPTY, EROFS
from pathlib import Path
from typing import Any

from data.errors import DamagedError, Interrupted, StoreError, there, vanished
from data.files import Checked, replacing, sync
from data.types import Artifact

Meta = dict[str, Any]

_SEAL = "seal"
"""The key of meta.json and of run.json that holds the hash of all its other keys."""
OTHER = "has other content than was written"
_MISSING = "is missing"
_UNSEALED = ("stage", "version", "config", "inputs", "seconds", "rows", "bytes", "sha256")
"""The keys that every meta.json had before there was a seal."""


def digest(value: object) -> str:
    """Hash a JSON value: the first 32 hex digits of the sha256 of its compact text with sorted keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def write_json(path: Path, value: object, *, durable: bool = True) -> None:
    """Write a JSON file so that a reader sees the old content or the new content, but never a part of it.

    Args:
        path: the file to write or replace.
        value: JSON values.
        durable: whether to force the file to disk.
    """
    with replacing(path, durable=durable) as draft, draft.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=1, ensure_ascii=False)
        file.write("\n")


@dataclass(frozen=True)
class Aside:
    """An artifact that was set aside.

    Attributes:
        damage: what was found.
        place: where the artifact is now, relative to the store.
    """

    damage: DamagedError
    place: str

    def __str__(self) -> str:
        return f"{self.damage.finding}; it is set aside in {self.place}"


class Store:
    """A store folder. It is cheap to open, and several processes can use it at once.

    Args:
        root: the folder.
        make: whether to create it if it is missing, and to check that it can be written. It is False for
            reading, and in the processes of a run that has begun, because the store was there then.
        checked: hashes of files that this run has read.

    Raises:
        StoreError: the folder can't be created or written, or is missing.
    """

    def __init__(self, root: str | Path, *, make: bool = True, checked: Checked | None = None) -> None:
        self.root = Path(root).expanduser().absolute()
        self.checked = checked or Checked()
        if not make:
            self._need()
            return
        try:
            for name in ("artifacts", "drafts", "cache", "runs"):
                (self.root / name).mkdir(parents=True, exist_ok=True)
            probe = self.root / "drafts" / f".probe-{os.getpid()}-{time.monotonic_ns()}"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise StoreError(
                f"store {str(self.root)!r} can't be written ({error.strerror}); "
                "give another folder with --store"
            ) from None

    def folder(self, artifact: Artifact) -> Path:
        """The folder of an artifact, whether or not it exists, for messages. To read it, call `whole`."""
        return self.root / artifact.path

    def cache(self, name: str) -> Path:
        """A folder for what can be recomputed. It is created if missing."""
        self._need()
        path = self.root / "cache" / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def artifacts(self, kind: str | None = None) -> Iterator[Artifact]:
        """All artifacts of the store, damaged ones too, in the order of their names."""
        for folder in sorted((self.root / "artifacts").glob(f"{kind or '*'}/*/")):
            if re.fullmatch(r"[a-z][a-z0-9-]*", folder.parent.name):
                yield Artifact(kind=folder.parent.name, fingerprint=folder.name)

    def meta(self, artifact: Artifact) -> Meta:
        """Read the artifact's meta.json.

        Raises:
            DamagedError: it is missing, or is not what was written.
        """
        folder = self.folder(artifact)
        try:
            return _read_meta(folder)
        except Wrong as wrong:
            raise DamagedError(
                self.root, artifact, wrong.file if folder.exists() else "", wrong.reason
            ) from None

    def damage(
        self, artifact: Artifact, *, thorough: bool = True, checked: Checked | None = None
    ) -> DamagedError | None:
        """What is wrong with an artifact; None if it is whole. A missing artifact counts as damaged.

        Args:
            artifact: the artifact.
            thorough: whether all files are hashed. If not, every file must have its recorded size, and only a
                file that is newer than meta.json, and so was touched after publishing, is hashed.
            checked: hashes of files to rely on; None: those that this run has read.
        """
        folder = self.folder(artifact)
        wrong = wrong_in(folder, thorough=thorough, checked=checked or self.checked)
        if wrong is None:
            return None
        return DamagedError(self.root, artifact, wrong.file if folder.exists() else "", wrong.reason)

    def has(self, artifact: Artifact) -> bool:
        """Whether the artifact is there and complete, as far as a look without reading its files tells."""
        return self.damage(artifact, thorough=False) is None

    def whole(self, artifact: Artifact) -> Path:
        """The folder of an artifact, to read its files. Each file is hashed once per run.

        Raises:
            DamagedError: a file is missing, or is not what was written.
        """
        damage = self.damage(artifact)
        if damage is not None:
            raise damage
        return self.folder(artifact)

    def set_aside(self, artifact: Artifact) -> Aside | None:
        """Move a damaged artifact out of the way.

        Returns:
            What was found and where it is now; None if the artifact is whole, is not there, or is just being
            built by another process, which sets it aside itself.
        """
        with suppress(Interrupted), self.draft(artifact, interrupted=lambda: True, waiting=lambda: None):
            return self.aside(artifact)
        return None

    def aside(self, artifact: Artifact) -> Aside | None:
        """Do the same as `set_aside` for a process that holds the artifact's draft."""
        folder = self.folder(artifact)
        if not folder.exists():
            return None
        damage = self.damage(artifact, checked=Checked())  # what was whole a moment ago may not be now
        if damage is None:
            return None
        target = self.root / "damaged" / artifact.kind
        target.mkdir(parents=True, exist_ok=True)
        number = 1
        while (place := target / f"{artifact.fingerprint}-{number}").exists():
            number += 1
        folder.rename(place)
        return Aside(damage, place.relative_to(self.root).as_posix())

    @contextmanager
    def draft(
        self, artifact: Artifact, *, interrupted: Callable[[], bool], waiting: Callable[[], None]
    ) -> Iterator[Path]:
        """Lock the draft folder of an artifact. Waits while another process builds the artifact.

        The kernel holds the lock (flock) and releases it when the process ends, even if it is killed.

        Args:
            artifact: what to build.
            interrupted: called repeatedly while waiting; True stops the wait.
            waiting: called once if another process holds the lock.

        Yields:
            The folder, with an empty `out/`, and `state/` as an earlier attempt left it.

        Raises:
            Interrupted: `interrupted` returned True while waiting.
            StoreError: the store has vanished.
        """
        folder = self.root / "drafts" / artifact.kind / artifact.fingerprint
        said = False
        while True:
            self._need()
            folder.mkdir(parents=True, exist_ok=True)
            try:
                lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
            except FileNotFoundError:  # another process published and removed it between mkdir and open
                continue
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(lock).st_ino == os.stat(folder / "lock").st_ino:
                    break
            except (BlockingIOError, FileNotFoundError):
                if not said:
                    waiting()
                    said = True
            os.close(lock)
            if interrupted():
                raise Interrupted(f"stopped while waiting for another run to finish {artifact.path}")
            time.sleep(0.2)
        try:
            shutil.rmtree(folder / "out", ignore_errors=True)
            (folder / "out").mkdir()
            (folder / "state").mkdir(exist_ok=True)
            yield folder
        finally:
            shutil.rmtree(folder / "out", ignore_errors=True)
            if not any((folder / "state").glob("*")):
                _clear(folder)  # there is nothing to resume from
            os.close(lock)

    def publish(self, artifact: Artifact, draft: Path, meta: Meta) -> Meta:
        """Write meta.json into `draft/out`, move that folder into place, and delete the draft's state.

        Files and folders are forced to disk before they are moved.

        Args:
            artifact: the artifact's name.
            draft: the locked folder from `draft()`.
            meta: the content of meta.json, without `sha256` and `bytes`, which are computed here.

        Returns:
            The content of meta.json as written. If another run has just published the same artifact, the
            content of that one.
        """
        self._need()
        out, target = draft / "out", self.folder(artifact)
        names = {path.relative_to(out).as_posix(): path for path in sorted(out.rglob("*")) if path.is_file()}
        for path in names.values():
            sync(path)
        found = Checked()
        full = {
            **meta,
            "sha256": {name: found.sha256(path) for name, path in names.items()},
            "bytes": {name: path.stat().st_size for name, path in names.items()},
        }
        written = sealed(full)
        write_json(out / "meta.json", written)
        full, _ = unsealed(written)
        for folder in [*sorted(path for path in out.rglob("*") if path.is_dir()), out]:
            sync(folder)
        target.parent.mkdir(exist_ok=True)
        while True:
            try:
                out.rename(target)
                break
            except OSError as error:
                if error.errno not in (EEXIST, ENOTEMPTY):
                    raise
                if self.aside(artifact) is None and self.has(artifact):
                    full = self.meta(artifact)
                    break
        for folder in (target.parent, target.parent.parent):
            sync(folder)
        for name in names:
            with suppress(OSError):
                self.checked.learn(target / name, full["sha256"][name])
        shutil.rmtree(draft / "state", ignore_errors=True)
        return full

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep `alone` out as long as the block lasts. Any number of processes may do so at once."""
        with self._hold(fcntl.LOCK_SH):
            yield

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep all others out, to delete what nobody needs.

        Raises:
            StoreError: another process uses the store.
        """
        try:
            with self._hold(fcntl.LOCK_EX | fcntl.LOCK_NB):
                yield
        except BlockingIOError:
            raise StoreError(
                f"store {str(self.root)!r} is in use by a run or another command; "
                "give the command again when that has ended"
            ) from None

    @contextmanager
    def _hold(self, how: int) -> Iterator[None]:
        self._need()
        path = self.root / "lock"
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        except OSError as error:
            if error.errno not in (EROFS, EACCES):
                raise
            if not path.exists():  # nobody has ever used this copy of a store, and nobody can delete here
                yield
                return
            lock = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, how)
            yield
        finally:
            os.close(lock)

    def _need(self) -> None:
        """Don't make a new store where the old one was mounted."""
        if not there(self.root):
            raise vanished(self.root)


class Wrong(Exception):
    """A file that is not what was written.

    Args:
        file: its name in its folder.
        reason: what is wrong, as the end of a sentence about the file.
    """

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(file, reason)
        self.file, self.reason = file, reason


def wrong_in(folder: Path, *, thorough: bool, checked: Checked) -> Wrong | None:
    """What is wrong with the files of an artifact, or of a copy of one; None if they are what was written.

    Args:
        folder: the folder with meta.json.
        thorough: whether all files are hashed, as for `Store.damage`.
        checked: hashes of files to rely on.
    """
    try:
        meta = _read_meta(folder)
        written = (folder / "meta.json").stat().st_mtime_ns
    except Wrong as wrong:
        return wrong
    except OSError:
        return Wrong("meta.json", _MISSING)
    for name, size in meta["bytes"].items():
        try:
            status = (folder / name).stat()
            if status.st_size != size:
                return Wrong(name, f"has {status.st_size:,} bytes, but {size:,} were written")
            read = thorough or status.st_mtime_ns > written
            if read and checked.sha256(folder / name) != meta["sha256"][name]:
                return Wrong(name, OTHER)
        except FileNotFoundError:
            return Wrong(name, _MISSING)
        except OSError as error:
            return Wrong(name, f"can't be read ({error.strerror})")
    for path in sorted(folder.glob("part-*.parquet")) if thorough else ():
        if path.name not in meta["bytes"]:  # readers of the parts read all that are there
            return Wrong(path.name, "was not written by the stage")
    return None


def _read_meta(folder: Path) -> Meta:
    try:
        found = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Wrong("meta.json", _MISSING) from None
    except OSError as error:
        raise Wrong("meta.json", f"can't be read ({error.strerror})") from None
    except ValueError:
        raise Wrong("meta.json", "is not JSON") from None
    meta, whole = unsealed(found)
    if whole is None and not _complete(meta):
        raise Wrong("meta.json", "lacks keys that every artifact has")
    if whole is False:
        raise Wrong("meta.json", OTHER)
    plain: Meta = meta
    return plain


def sealed(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON values with the key `seal`, a hash of all others, for a file whose hash no other file names."""
    plain = json.loads(json.dumps(values))  # as a reader gets it: keys are strings, tuples are lists
    return {**plain, _SEAL: _seal(plain)}


def unsealed(found: Any) -> tuple[Any, bool | None]:
    """What `sealed` sealed, and whether it is unchanged; None if it has no seal, as in earlier versions."""
    if not isinstance(found, dict) or _SEAL not in found:
        return found, None
    plain = {name: value for name, value in found.items() if name != _SEAL}
    return plain, found[_SEAL] == _seal(plain)


def _seal(plain: object) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _complete(meta: object) -> bool:
    """Whether a meta.json without a seal has the keys that every meta.json had before there were seals."""
    if not isinstance(meta, dict) or not all(name in meta for name in _UNSEALED):
        return False
    sizes, hashes = meta["bytes"], meta["sha256"]
    return isinstance(sizes, dict) and isinstance(hashes, dict) and sizes.keys() == hashes.keys()


def _clear(draft: Path) -> None:
    """Delete a locked draft, the lock last: until then, nobody else can work in the folder."""
    with suppress(OSError):
        for path in draft.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != "lock":
                path.unlink()
        (draft / "lock").unlink()
        draft.rmdir()  # not empty if the next one has come already


def fingerprint(
    stage: str, version: int, settings: Mapping[str, Any], seed: int | None, inputs: Mapping[str, object]
) -> str:
    """The name of an artifact: a hash of what was asked for.

    Args:
        stage: the stage's name.
        version: the stage's version; it is raised when the stage computes something else.
        settings: the stage's own configuration.
        seed: the stage's seed, or None if it draws no random numbers.
        inputs: name -> what the stage reads of this input: a fingerprint, or the hashes of a manifest's
            parts.
    """
    return digest({"stage": stage, "version": version, "settings": settings, "seed": seed, "inputs": inputs})


def part_reading(manifest: Meta, parts: tuple[str, ...]) -> dict[str, object]:
    """What a stage reads of a manifest: for each part, its hash and the index at which its rows start.

    The start index is included because artifacts store row indices, and the rows of `test` move when
    `unlabelled` grows.
    """
    counts = manifest["counts"]
    starts = {"train": 0, "unlabelled": counts["train"], "test": counts["train"] + counts["unlabelled"]}
    return {part: [manifest["parts"][part], starts.get(part.removesuffix("_labels"), 0)] for part in parts}
