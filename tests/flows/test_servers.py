"""Servers with PostgreSQL and with authentication; and a user's answer to a paused run."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prefect_server import PARAMETERS, Prefect, free_port, serving

pytestmark = pytest.mark.slow

WORD = "admin:correct-horse"


def programs() -> Path | None:
    """The folder with PostgreSQL's programs."""
    places = [Path(found).resolve().parent for name in ("pg_ctl",) if (found := shutil.which(name))]
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((place for place in places if (place / "initdb").exists()), None)


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """A separate PostgreSQL server on loopback -> its URL for Prefect."""
    place = programs()
    if place is None:
        pytest.skip("PostgreSQL is not installed")
    who: dict[str, Any] = {}
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        names = [entry.pw_name for entry in pwd.getpwall()]
        user = "postgres" if "postgres" in names else "nobody"
        who = {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}
        shutil.chown(folder, user)
        for parent in folder.parents:
            if parent.stat().st_mode & 0o001 == 0:
                parent.chmod(parent.stat().st_mode | 0o001)
    port, data = free_port(), folder / "data"

    def do(name: str, *words: str) -> None:
        done = subprocess.run([str(place / name), *words], **who, capture_output=True, text=True, cwd="/")
        assert done.returncode == 0, done.stdout + done.stderr

    do("initdb", "-D", str(data), "-U", "prefect", "-A", "trust", "--no-sync")
    options = f"-p {port} -k {folder} -h 127.0.0.1"
    do("pg_ctl", "-D", str(data), "-o", options, "-l", str(folder / "log"), "-w", "start")
    try:
        do("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "prefect", "prefect")
        yield f"postgresql+asyncpg://prefect@127.0.0.1:{port}/prefect"
    finally:
        do("pg_ctl", "-D", str(data), "-m", "immediate", "stop")


def test_postgresql_with_a_password(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "pg").mkdir()
    (tmp_path / "home").mkdir()
    with postgres(tmp_path / "pg") as url:
        settings = {
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": url,
            "PREFECT_SERVER_API_AUTH_STRING": WORD,
            "PREFECT_API_AUTH_STRING": WORD,
        }
        with serving(environment, tmp_path / "home", **settings) as prefect:
            prefect.environment["PREFECT_API_AUTH_STRING"] = "admin:wrong"
            with pytest.raises(urllib.error.HTTPError, match="401"):
                prefect.ask("/deployments/filter", limit=1)
            prefect.environment["PREFECT_API_AUTH_STRING"] = WORD
            parameters = {**PARAMETERS, "store": str(tmp_path / "store")}
            assert prefect.run("smoke", parameters)["state_name"] == "Completed"
            again = prefect.run("smoke", parameters)
            assert {row["state_name"] for row in prefect.stages(again).values()} == {"Cached"}
            assert max(len(str(row["data"])) for row in prefect.artifacts(again)) < 280_000
    assert not (tmp_path / "home" / "prefect.db").exists()


def test_a_person_looks_at_the_clusters(prefect: Prefect, tmp_path: Path) -> None:
    with prefect.worker():
        run = prefect.create(
            "knowledge-transfer/knowledge-transfer",
            {**PARAMETERS, "review": True, "until": "transfer", "store": str(tmp_path)},
        )
        for answer in ({"k": 7}, {}):
            found = prefect.until(run, lambda found: found["state_type"] == "PAUSED")
            assert "transfer" not in prefect.stages(found)
            prefect.ask(f"/flow_runs/{run}/resume", run_input=answer)
            prefect.until(run, lambda found: found["state_type"] != "PAUSED")
        found = prefect.until(run)
        assert found["state_name"] == "Completed", found["state"]["message"]
        record = json.loads((tmp_path / "runs" / found["name"] / "run.json").read_text())
        assert record["config"]["cluster"]["k"] == 7
        rows = {row["stage"]: row for row in record["stages"]}
        assert (rows["cluster"]["rows"], rows["cluster-k7"]["rows"]) == (PARAMETERS["k"], 7)
        meta = json.loads((tmp_path / rows["transfer"]["path"] / "meta.json").read_text())
        assert meta["inputs"]["assignments"]["fingerprint"] == rows["assign-k7"]["fingerprint"]
        prefect.own("report", found["name"], "--store", str(tmp_path))

        run = prefect.create(
            "knowledge-transfer/knowledge-transfer",
            {**PARAMETERS, "review": True, "until": "transfer", "store": str(tmp_path)},
        )
        prefect.until(run, lambda found: found["state_type"] == "PAUSED")
        prefect.ask(f"/flow_runs/{run}/resume", run_input={"go_on": False})
        found = prefect.until(run)
        assert found["state_type"] == "FAILED"
        assert "were rejected" in found["state"]["message"]
