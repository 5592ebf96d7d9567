"""The records of a store's runs (run.json): writing and reading them, and seeing which runs are alive.

A record has a seal, as meta.json has. Otherwise one flipped bit could let `store gc` delete what a run needs.

While a run lives, its process holds a lock on the file `alive` in the run's folder. The kernel releases it
however the process ends. The file says on which machine it runs, because on some network file systems a lock
is seen only by the machine that holds it.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from data.errors import ConfigError, DamagedError, repair, there
from data.files import file_sha256
from data.store import OTHER, Store, sealed, unsealed, write_json
from data.types import Artifact

DIED = "its process ended without a word: it was killed, or its machine went down or lost the store"
SCORES = "scores.parquet"
ALL = ("name", "started", "config")
"""What every run's record has, besides `status` and `stages`."""


def write_record(folder: Path, record: dict[str, Any], *, durable: bool = True) -> None:
    """Write the record of a run.

    Args:
        folder: the run's folder.
        record: JSON values.
        durable: whether to force the file to disk.
    """
    write_json(folder / "run.json", sealed(record), durable=durable)


def read_record(folder: Path, *keys: str) -> dict[str, Any]:
    """Read the record of a run. One without a seal is from an earlier version.

    Args:
        folder: the run's folder.
        *keys: what it must have, besides `status` and `stages`.

    Raises:
        ConfigError: run.json is missing or damaged.
    """
    path = folder / "run.json"
    try:
        found, unchanged = unsealed(json.loads(path.read_text(encoding="utf-8")))
        if unchanged is False:
            raise ValueError(f"it {OTHER}")
        if not all(name in found for name in ("status", "stages", *keys)) or not all(
            "path" in row for row in found["stages"]
        ):
            raise ValueError("it lacks keys")
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(
            f"{path} is missing or damaged ({error}); give the run's command again: it finds its results in "
            "the store, and writes a new record"
        ) from None
    record: dict[str, Any] = found
    return record


def stage_row(
    label: str, made: Artifact, meta: Mapping[str, Any], cached: bool, seconds: float
) -> dict[str, Any]:
    """A row of `stages` in a run's record.

    Args:
        label: the stage's name in the run.
        made: its artifact.
        meta: the artifact's meta.json.
        cached: whether the store had it already.
        seconds: how long it took to make or find it.
    """
    return {
        "stage": label,
        "kind": made.kind,
        "fingerprint": made.fingerprint,
        "path": made.path,
        "cached": cached,
        "seconds": round(seconds, 3),
        "rows": meta["rows"],
        "computed_in": meta["seconds"],
    }


def records(
    store: Store, damaged: Callable[[Path], object] = lambda path: None
) -> list[tuple[Path, dict[str, Any]]]:
    """The folders and records of all runs, in the order in which they started, the latest first.

    The order follows the start that each record names, because a copy changes the time of modification.

    Args:
        store: the store.
        damaged: gets the path of each damaged record, which is left out.
    """
    found: list[tuple[str, float, Path, dict[str, Any]]] = []
    for path in (store.root / "runs").glob("*/run.json"):
        try:
            record = read_record(path.parent, *ALL)
            found.append((str(record["started"]), path.stat().st_mtime, path.parent, record))
        except ConfigError:
            if path.exists():  # else somebody has just deleted it
                damaged(path)
        except OSError:
            continue
    return [(folder, record) for *_, folder, record in sorted(found, key=lambda run: run[:3], reverse=True)]


def original_scores(folder: Path, record: Mapping[str, Any]) -> Path | None:
    """The store's file of scores, if the copy in a run's folder differs from it; None if the copy is good.

    It is also None if the run made no scores, if it is not done, or if its store no longer has them.
    """
    root = folder.parent.parent
    made = next((row for row in record["stages"] if row["stage"] == "scores"), None)
    if record["status"] != "done" or made is None or not there(root):
        return None
    store = Store(root, make=False)
    artifact, copy = Artifact(kind=made["kind"], fingerprint=made["fingerprint"]), folder / SCORES
    try:
        written = store.meta(artifact)["sha256"][SCORES]
        if copy.exists() and file_sha256(copy) == written:
            return None
        return store.whole(artifact) / SCORES
    except DamagedError:
        return None


def copied_scores(folder: Path, record: Mapping[str, Any]) -> Path | None:
    """The copy of the scores in a run's folder, to read it; None if there is none.

    Raises:
        ConfigError: it is not what was written.
    """
    if original_scores(folder, record) is not None:
        raise ConfigError(
            f"{folder / SCORES} is missing or {OTHER}; `{repair(folder.parents[1])}` copies it from the store"
        )
    return folder / SCORES if (folder / SCORES).exists() else None


@contextmanager
def living(folder: Path) -> Iterator[None]:
    """Mark a run as alive as long as the block lasts.

    Args:
        folder: the run's folder.
    """
    path = folder / "alive"
    with path.open("w", encoding="utf-8") as file:
        file.write(socket.gethostname())
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def alive(folder: Path) -> bool:
    """Whether the process of a run lives. A run of another machine counts as alive until its file is gone."""
    try:
        lock = os.open(folder / "alive", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.read(lock, 300).decode(errors="replace") not in ("", socket.gethostname())
    except BlockingIOError:
        return True
    finally:
        os.close(lock)


def end_record(folder: Path, status: str, error: str) -> None:
    """Write into the record of a run that it is over.

    Args:
        folder: the run's folder.
        status: failed or cancelled.
        error: how it ended.
    """
    record = read_record(folder, *ALL)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    write_record(folder, {**record, "status": status, "finished": now, "error": error})


def note_deaths(store: Store) -> list[str]:
    """Find the runs that died, and record that they failed. Returns the names of these runs.

    A run that waits for a person has no process, and lives until its time is over.
    """
    found = []
    now = datetime.now(UTC)
    for folder, record in records(store):
        with suppress(OSError):
            if record["status"] == "running" and not alive(folder):
                end_record(folder, "failed", DIED)
                (folder / "alive").unlink(missing_ok=True)
                found.append(str(record["name"]))
            elif record["status"] == "waiting" and datetime.fromisoformat(record["waiting"]["until"]) < now:
                end_record(folder, "failed", f"nobody answered until {record['waiting']['until']}")
    return found
