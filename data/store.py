"""The store: the folder that holds artifacts, drafts and runs, and how an artifact is published in it.

An artifact is named by its fingerprint, a hash of what was asked for. It is built in a draft folder under a
lock. Its `meta.json` is written last, and then one rename moves it into place. A crash leaves a draft, but
never half an artifact. If two runs want the same artifact, one builds it and the other uses it.

    STORE/artifacts/<kind>/<fingerprint>/   finished artifacts, which never change
    STORE/drafts/<kind>/<fingerprint>/      lock, out/ (becomes the artifact), state/ (to resume from)
    STORE/cache/                            what can be recomputed: packed images, remembered hashes
    STORE/runs/<name>/                      run.json, config.yaml, log.txt, scores.parquet, report.html
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
from data.files import replacing
from data.types import Artifact

Meta = dict[str, Any]


def digest(value: object) -> str:
    """Hash a JSON value: the first 32 hex digits of the sha256 of its compact text with sorted keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: object) -> None:
    """Write a JSON file so that a reader sees the old content or the new content, but never a part of it."""
    with replacing(path) as draft, draft.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=1, ensure_ascii=False)
        file.write("\n")


class Store:
    """A store folder. It is cheap to open, and several processes can use it at once.

    Args:
        root: the folder; it is created if missing.

    Raises:
        StoreError: the folder can't be created or written.
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
                f"store {str(self.root)!r} can't be written ({error.strerror}); "
                "give another folder with --store"
            ) from None

    def folder(self, artifact: Artifact) -> Path:
        """The folder of an artifact, whether or not it exists yet."""
        return self.root / artifact.path

    def cache(self, name: str) -> Path:
        """A folder for what can be recomputed. It is created if missing."""
        path = self.root / "cache" / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def meta(self, artifact: Artifact) -> Meta:
        """Read the artifact's meta.json.

        Raises:
            ArtifactError: the artifact is missing or damaged.
        """
        try:
            meta: Meta = json.loads((self.folder(artifact) / "meta.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ArtifactError(
                f"{artifact.path} is missing or damaged ({error}); run again to recompute it"
            ) from None
        return meta

    def has(self, artifact: Artifact) -> bool:
        """Whether the artifact is there and complete.

        Every file must have its recorded size. A file that is newer than meta.json was touched after
        publishing, so it must also have its recorded sha256.
        """
        folder = self.folder(artifact)
        try:
            written = (folder / "meta.json").stat().st_mtime_ns
            meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
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
        """
        folder = self.root / "drafts" / artifact.kind / artifact.fingerprint
        said = False
        while True:
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
            if folder.exists() and not any((folder / "state").glob("*")):
                shutil.rmtree(folder, ignore_errors=True)  # there is nothing to resume from
            os.close(lock)

    def publish(self, artifact: Artifact, draft: Path, meta: Meta) -> Meta:
        """Write meta.json into `draft/out`, move that folder into place, and remove the draft.

        Args:
            artifact: the artifact's name.
            draft: the locked folder from `draft()`.
            meta: the content of meta.json, without `sha256` and `bytes`, which are computed here.

        Returns:
            The content of meta.json as written.
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
        if target.exists():  # it is damaged: otherwise has() would have found it
            target.rename(draft / f"damaged-{time.monotonic_ns()}")
        out.rename(target)
        shutil.rmtree(draft, ignore_errors=True)
        return full


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
