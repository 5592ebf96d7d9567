"""The automation for dead runs ends runs that went silent, and no others."""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from conftest import ROOT
from prefect_server import Prefect, free_port, lasting

pytestmark = pytest.mark.slow

QUICK = {"PREFECT_SERVER_EVENTS_PROACTIVE_GRANULARITY": "PT1S"}
"""A server that looks every second for runs that went silent."""
SETUP = """
from datetime import timedelta
from flows.server import embedded
embedded.configure()
from flows.server import prefect_setup
prefect_setup.SILENCE = timedelta(seconds=10)
print("\\n".join(prefect_setup.prefect_setup(1)))
"""


class Runs:
    """Flow runs without a process, whose events are sent by hand."""

    def __init__(self, prefect: Prefect) -> None:
        self._prefect = prefect
        self._flow = prefect.ask("/flows/", name="by-hand")["id"]

    def start(self, *tags: str) -> str:
        made = self._prefect.ask(
            "/flow_runs/", flow_id=self._flow, tags=list(tags), state={"type": "RUNNING", "name": "Running"}
        )
        return str(made["id"])

    def say(self, run: str, event: str = "prefect.flow-run.heartbeat") -> None:
        tags = self._prefect.state(run)["tags"]
        sent = {
            "id": str(uuid4()),
            "occurred": datetime.now(UTC).isoformat(),
            "event": event,
            "resource": {"prefect.resource.id": f"prefect.flow-run.{run}"},
            "related": [
                {"prefect.resource.id": f"prefect.tag.{tag}", "prefect.resource.role": "tag"} for tag in tags
            ],
        }
        self._prefect.send("/events", "POST", [sent])

    def become(self, run: str, **state: Any) -> None:
        self._prefect.ask(f"/flow_runs/{run}/set_state", state=state, force=True)


def set_up(prefect: Prefect) -> str:
    """Create the automation, which waits for 10 s -> what `prefect-setup` says."""
    done = subprocess.run(
        [sys.executable, "-c", SETUP], env=prefect.environment, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_only_silent_runs_are_ended(environment: dict[str, str], tmp_path: Path) -> None:
    prefect = Prefect({**environment, **QUICK}, tmp_path, free_port())
    prefect.start()
    try:
        said = set_up(prefect)
        assert "warning: the server keeps the leases of running runs in memory" in said
        assert "warning: if the server is away for longer than 70 s" in said
        runs, ours = Runs(prefect), "knowledge-transfer"
        dead, retried, suspended, foreign = (runs.start(tag) for tag in (ours, ours, ours, "another"))
        runs.say(retried)
        runs.become(suspended, type="PAUSED", name="Suspended")
        runs.say(suspended)  # Prefect sends heartbeats until shortly after the run was suspended
        runs.say(suspended, "knowledge-transfer.process.left")
        runs.say(foreign)  # its heartbeats may be rarer than ours
        time.sleep(3)
        runs.become(retried, type="SCHEDULED", name="AwaitingRetry")  # and it waits for its turn
        runs.say(dead)
        found = prefect.until(dead, seconds=90)
        assert found["state_type"] == "CRASHED"
        assert "No heartbeat" in found["state"]["message"]
        states = [prefect.state(run)["state_type"] for run in (retried, suspended, foreign)]
        assert states == ["SCHEDULED", "PAUSED", "RUNNING"]
    finally:
        prefect.stop()


def test_a_run_that_died_while_the_server_was_away_is_ended(
    environment: dict[str, str], tmp_path: Path
) -> None:
    prefect = Prefect({**environment, **QUICK, **lasting()}, tmp_path, free_port())
    prefect.start()
    try:
        assert "warning" not in set_up(prefect)
        runs = Runs(prefect)
        run = runs.start("knowledge-transfer")
        runs.say(run)
        time.sleep(3)
        prefect.kill()
        time.sleep(90)  # longer than the automation's 10 s and the minute after which Prefect forgets
        prefect.start()
        assert prefect.until(run, seconds=90)["state_type"] == "CRASHED"
    finally:
        prefect.stop()
