"""A backup of Prefect's server by the lines of the run book has everything, and can be restored."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from prefect_server import Prefect, free_port

pytestmark = pytest.mark.slow


def lines(mark: str) -> str:
    """The shell lines of the run book that contain a comment."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / "operations.md").read_text(), re.DOTALL)
    (found,) = (block for block in blocks if mark in block)
    return str(found)


def give(text: str, home: Path, **more: str) -> None:
    """Give shell lines as a user whose home has Prefect's folder. `more` is for their environment."""
    environment = {
        **more,
        "HOME": str(home.parent),
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
    }
    done = subprocess.run(
        ["bash", "-euc", text.replace("python ", f"{sys.executable} ")],
        env=environment,
        cwd=home.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def begin(prefect: Prefect, number: int) -> list[str]:
    flow = prefect.ask("/flows/", name="by-hand")["id"]
    state = {"type": "RUNNING", "name": "Running"}
    return [prefect.ask("/flow_runs/", flow_id=flow, state=state)["id"] for _ in range(number)]


def found(prefect: Prefect) -> set[Any]:
    return {row["id"] for row in prefect.ask("/flow_runs/filter", "POST")}


def test_backup_and_restore(environment: dict[str, str], tmp_path: Path) -> None:
    home = tmp_path / ".prefect"
    home.mkdir()
    prefect = Prefect(environment, home, free_port())
    prefect.start()
    try:
        prefect("gcl", "create", "one", "--limit", "1")
        early = begin(prefect, 20)
        prefect.ask("/v2/concurrency_limits/increment-with-lease", names=["one"], slots=1, mode="concurrency")
        time.sleep(3)  # events are written in the background
        give(lines("# back up the server"), home)
        begin(prefect, 5)
    finally:
        prefect.stop()
    assert (home / "prefect.db-wal").stat().st_size > 0  # so a copy of prefect.db alone is not whole
    with sqlite3.connect(tmp_path / "prefect-backup.db") as backup:
        assert backup.execute("SELECT count(*) FROM flow_run").fetchone() == (len(early),)
        assert backup.execute("SELECT count(*) FROM events").fetchone()[0] >= len(early)
        assert backup.execute("PRAGMA integrity_check").fetchone() == ("ok",)

    give(lines("# restore the server"), home)
    prefect.start()
    try:
        assert found(prefect) == set(early)
        (limit,) = prefect.ask("/v2/concurrency_limits/filter", "POST")
        assert limit["active_slots"] == 0  # whoever held it is gone
        give(lines("# end the runs of the backup"), home, PREFECT_API_URL=prefect.url)
        assert {prefect.state(run)["state_type"] for run in early} == {"CRASHED"}
    finally:
        prefect.stop()
