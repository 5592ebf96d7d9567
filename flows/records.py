"""The records of a store's runs (run.json): reading them, and seeing which runs are alive.

While a run lives, its process holds a lock on the file `alive` in the run's folder. The kernel releases it
however the process ends. The file says on which machine it runs, because on some network file systems a lock
is seen only by the machine that holds it.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from data.errors import ConfigError
from data.store import Store, write_json
from data.types import Artifact

DIED = "its process ended without a word: it was killed, or its machine went down or lost the store"
ALL = ("name", "started", "config")
"""What every run's record has, besides `status` and `stages`."""


def read_record(folder: Path, *keys: str) -> dict[str, Any]:
    """Read the record of a run.

    Args:
        folder: the run's folder.
        *keys: what it must have, besides `status` and `stages`.

    Raises:
        ConfigError: run.json is missing or damaged.
    """
    path = folder / "run.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
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


def records(store: Store) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The folders and records of all runs, the latest first. Damaged records are left out."""

    def written(path: Path) -> float:
        with suppress(OSError):
            return -path.stat().st_mtime
        return 0.0

    for path in sorted((store.root / "runs").glob("*/run.json"), key=written):
        with suppress(ConfigError):
            yield path.parent, read_record(path.parent, *ALL)


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


def note_deaths(store: Store) -> list[str]:
    """Write into the records of runs that died that they failed. Returns the names of these runs."""
    found = []
    for folder, record in list(records(store)):
        if record["status"] == "running" and not alive(folder):
            with suppress(OSError):
                now = datetime.now(UTC).isoformat(timespec="seconds")
                write_json(
                    folder / "run.json", {**record, "status": "failed", "finished": now, "error": DIED}
                )
                (folder / "alive").unlink(missing_ok=True)
                found.append(str(record["name"]))
    return found
