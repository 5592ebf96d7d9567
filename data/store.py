"""The store: where artifacts, drafts and runs lie, and how an artifact comes to be.

An artifact is named by what was asked (its fingerprint), built in a draft folder under a lock, and moved into place in
one rename, `meta.json` written last. A crash leaves a draft, never half an artifact; of two runs that want the same one
builds and the other adopts.

    STORE/artifacts/<kind>/<fingerprint>/   immutable
    STORE/drafts/<kind>/<fingerprint>/      lock, out/ (becomes the artifact), state/ (resumable, survives a crash)
    STORE/cache/                            what can be made again: packed images, remembered hashes
    STORE/runs/<name>/                      run.json, config.yaml, log.txt, copies of scores.parquet and report.html
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data.errors import ArtifactError, Interrupted, StoreError
from data.types import Artifact, Kind

Meta = dict[str, Any]


def digest(value: object) -> str:
    """Hash of a JSON value: sha256 of its sorted, compact text, 32 hex digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: object) -> None:
    """Write a JSON file so that a reader sees the old one or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w") as file:
        json.dump(value, file, indent=1, ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


class Store:
    """A store folder. Cheap to open; safe to share between processes.

    Args:
        root: the folder; made if absent.

    Raises:
        StoreError: if it can't be made or written.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).expanduser().absolute()
        try:
            for name in ("artifacts", "drafts", "cache", "runs"):
                (self.root / name).mkdir(parents=True, exist_ok=True)
            probe = self.root / "drafts" / f".probe-{os.getpid()}-{time.monotonic_ns()}"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise StoreError(
                f"store {str(self.root)!r} can't be written ({error.strerror}); give another folder with --store"
            ) from None

    def folder(self, artifact: Artifact) -> Path:
        """Where an artifact lies or would lie."""
        return self.root / artifact.path

    def cache(self, name: str) -> Path:
        """A folder for what can be made again."""
        path = self.root / "cache" / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def meta(self, artifact: Artifact) -> Meta:
        """The artifact's meta.json.

        Raises:
            ArtifactError: if the artifact is not there.
        """
        try:
            meta: Meta = json.loads((self.folder(artifact) / "meta.json").read_text())
        except (OSError, ValueError) as error:
            raise ArtifactError(f"{artifact.path} is missing or damaged ({error}); run again to make it anew") from None
        return meta

    def has(self, artifact: Artifact) -> bool:
        """Whether the artifact is there and whole.

        Sizes are compared always, contents where a file is younger than its meta.json (it was touched after
        publishing): then its sha256 must still be the recorded one.
        """
        folder = self.folder(artifact)
        try:
            written = (folder / "meta.json").stat().st_mtime_ns
            meta = json.loads((folder / "meta.json").read_text())
            for name, size in meta["bytes"].items():
                status = (folder / name).stat()
                if status.st_size != size:
                    return False
                if status.st_mtime_ns > written and file_sha256(folder / name) != meta["sha256"][name]:
                    return False
        except (OSError, ValueError, KeyError):
            return False
        return True

    @contextmanager
    def draft(
        self, artifact: Artifact, *, interrupted: Callable[[], bool], waiting: Callable[[], None]
    ) -> Iterator[Path]:
        """The locked draft folder of an artifact; waits while another process builds it.

        The lock is the kernel's (flock): it goes with the process, however that dies.

        Args:
            artifact: what is to be built.
            interrupted: asked while waiting.
            waiting: called once if another process holds the lock.

        Yields:
            The folder, with `out/` empty and `state/` as an earlier attempt left it.

        Raises:
            Interrupted: if asked to stop while waiting.
        """
        folder = self.root / "drafts" / artifact.kind / artifact.fingerprint
        said = False
        while True:
            folder.mkdir(parents=True, exist_ok=True)
            try:
                lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
            except FileNotFoundError:  # published and removed between the two lines
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
            if folder.exists() and not any((folder / "state").glob("*")):
                shutil.rmtree(folder, ignore_errors=True)  # nothing to go on from
            os.close(lock)

    def publish(self, artifact: Artifact, draft: Path, meta: Meta) -> Meta:
        """Move `draft/out` into place, with its meta.json, and remove the draft.

        Args:
            artifact: its name.
            draft: the locked folder of `draft()`.
            meta: everything but `sha256` and `bytes`, which are measured here.

        Returns:
            The meta.json as written.
        """
        out, target = draft / "out", self.folder(artifact)
        files = sorted(p for p in out.rglob("*") if p.is_file())
        for path in files:
            with path.open("rb") as file:
                os.fsync(file.fileno())
        names = {path.relative_to(out).as_posix(): path for path in files}
        full = {
            **meta,
            "sha256": {name: file_sha256(path) for name, path in names.items()},
            "bytes": {name: path.stat().st_size for name, path in names.items()},
        }
        write_json(out / "meta.json", full)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():  # damaged, or has() would have found it
            target.rename(draft / f"damaged-{time.monotonic_ns()}")
        out.rename(target)
        shutil.rmtree(draft, ignore_errors=True)
        return full


def fingerprint(
    stage: str, version: int, settings: Mapping[str, Any], seed: int | None, inputs: Mapping[str, object]
) -> str:
    """The name of an artifact: a hash of what was asked.

    Args:
        stage: the stage's name.
        version: the stage's version, raised when its meaning changes.
        settings: the stage's own configuration.
        seed: its seed, None where it draws nothing.
        inputs: name -> what the stage reads of it: a fingerprint, or part hashes of a manifest.
    """
    return digest({"stage": stage, "version": version, "settings": settings, "seed": seed, "inputs": inputs})


def part_reading(manifest: Meta, parts: tuple[str, ...]) -> dict[str, object]:
    """What a stage reads of a manifest: each part's content hash, and at which index its rows start.

    The start is inside because rows of `test` move when `unlabelled` grows, and artifacts carry the index.
    """
    counts = manifest["counts"]
    starts = {"train": 0, "unlabelled": counts["train"], "test": counts["train"] + counts["unlabelled"]}
    return {part: [manifest["parts"][part], starts.get(part.removesuffix("_labels"), 0)] for part in parts}


def artifact(kind: Kind, fingerprint: str) -> Artifact:
    """Name an artifact."""
    return Artifact(kind=kind, fingerprint=fingerprint)
