"""Cancels, kills and restarts do what docs/operations.md promises, on a real server and worker."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from prefect_server import PARAMETERS, Prefect, lasting, serving, short_leases

pytestmark = pytest.mark.slow

WITHIN = 30.0
"""Seconds from a cancel until the work must have ended."""
LONG: dict[str, Any] = {
    **{name: value for name, value in PARAMETERS.items() if name != "epochs"},
    "pretext": {"width": 0.25, "epochs": 150},
    "evaluate": {"protocols": ["clusters"]},
    "finetune": {"steps": 4, "baseline": False},
}
"""Settings for a training of more than a minute that saves its state every 30 s, with little other work."""
STAGES: dict[str, dict[str, Any]] = {
    "pretext": {"pretext": {"width": 0.25, "epochs": 2000}},
    "cluster": {"pretext": {"method": "hog"}, "cluster": {"k": 1000, "iterations": 1000, "restarts": 100}},
    "embed": {"pretext": {"method": "hog", "cell": 64}, "data": {"image_size": 512}},
}
"""Stage during which the run is cancelled -> settings that make the stage long."""


def processes(run: str) -> dict[int, str]:
    """Living processes of a flow run: pid -> command line.

    They are recognised by variables that Prefect or we put into their environment.
    """
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (
                run.encode() in (folder / "environ").read_bytes()
                and (folder / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
            ):
                found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
    return found


def gone(run: str, seconds: float) -> None:
    end = time.monotonic() + seconds
    while alive := processes(run):
        assert time.monotonic() < end, alive
        time.sleep(0.2)


def some_steps(prefect: Prefect, run: str, store: Path) -> None:
    """Wait until pretext has saved a state to resume from, and then for a random time."""
    prefect.until_stage(run, "pretext")
    end = time.monotonic() + 120
    while not list(store.glob("drafts/checkpoint/*/state/training.pt")):
        assert time.monotonic() < end
        time.sleep(0.1)
    time.sleep(random.uniform(0, 3))


def retried(prefect: Prefect, run: str, store: Path) -> None:
    """Retry a run as its page does, and check that it completes and that the training resumed."""
    state = {"type": "SCHEDULED", "name": "AwaitingRetry", "message": "retried"}
    answer = prefect.ask(f"/flow_runs/{run}/set_state", state=state, force=True)
    assert answer["status"] == "ACCEPT", answer
    found = prefect.until(run)
    assert found["state_name"] == "Completed", found["state"]["message"]
    logs = prefect.logs(run)
    assert any("resuming at step" in message for message in logs), logs
    record = json.loads((store / "runs" / found["name"] / "run.json").read_text())
    assert record["status"] == "done"


@pytest.mark.parametrize("stage", STAGES)
def test_cancelled_in_a_stage(stage: str, prefect: Prefect, tmp_path: Path) -> None:
    with prefect.worker():
        run = prefect.create(
            "knowledge-transfer/knowledge-transfer", {**LONG, **STAGES[stage], "store": str(tmp_path)}
        )
        if stage == "pretext":
            some_steps(prefect, run, tmp_path)
        else:
            prefect.until_stage(run, stage)
            time.sleep(random.uniform(1, 3))
        assert processes(run)
        asked = time.monotonic()
        prefect.ask(f"/flow_runs/{run}/set_state", state={"type": "CANCELLING"}, force=False)
        gone(run, WITHIN)
        found = prefect.until(run, seconds=WITHIN)
        took = time.monotonic() - asked
        assert found["state_type"] == "CANCELLED", found["state"]
    print(f"cancelled in {stage}: {took:.1f} s")
    (record,) = tmp_path.glob("runs/*/run.json")
    assert json.loads(record.read_text())["status"] == "cancelled"
    if stage == "pretext":
        assert list(tmp_path.glob("drafts/checkpoint/*/state/training.pt"))


def test_the_flow_process_is_killed(prefect: Prefect, tmp_path: Path) -> None:
    with prefect.worker():
        run = prefect.create("knowledge-transfer/knowledge-transfer", {**LONG, "store": str(tmp_path)})
        some_steps(prefect, run, tmp_path)
        (flow,) = (pid for pid, command in processes(run).items() if "tasks.child" not in command)
        os.kill(flow, signal.SIGKILL)
        found = prefect.until(run, seconds=60)
        assert found["state_type"] == "CRASHED", found["state"]
        gone(run, 40)  # children end with their parent
        retried(prefect, run, tmp_path)


def test_the_training_child_is_killed(prefect: Prefect, tmp_path: Path) -> None:
    with prefect.worker():
        run = prefect.create("knowledge-transfer/knowledge-transfer", {**LONG, "store": str(tmp_path)})
        some_steps(prefect, run, tmp_path)
        (child,) = (pid for pid, command in processes(run).items() if "tasks.child train" in command)
        os.kill(child, signal.SIGKILL)
        found = prefect.until(run, seconds=60)
        assert found["state_type"] == "FAILED", found["state"]
        assert "SIGKILL (out of memory?)" in found["state"]["message"]
        failed = prefect.events("knowledge-transfer.run.failed", found["name"])
        assert "SIGKILL" in failed[0]["payload"]["error"]
        retried(prefect, run, tmp_path)


def test_the_worker_is_killed(prefect: Prefect, tmp_path: Path) -> None:
    # Without its worker, the run ends at its next log line. Pretext must not end before that.
    longer = {"pretext": {"width": 0.25, "epochs": 450}}
    with prefect.worker() as worker:
        run = prefect.create(
            "knowledge-transfer/knowledge-transfer", {**LONG, **longer, "store": str(tmp_path)}
        )
        some_steps(prefect, run, tmp_path)
        worker.kill()
        worker.wait()
        found = prefect.until(run, seconds=60)
        assert found["state_type"] == "CRASHED", found["state"]
        gone(run, 40)
    with prefect.worker():
        retried(prefect, run, tmp_path)


def test_the_machine_of_the_worker_dies(prefect: Prefect, tmp_path: Path) -> None:
    with prefect.worker() as worker:
        run = prefect.create(
            "knowledge-transfer/knowledge-transfer", {**LONG, **STAGES["pretext"], "store": str(tmp_path)}
        )
        some_steps(prefect, run, tmp_path)
        time.sleep(35)  # a heartbeat has been sent
        worker.kill()
        for pid in processes(run):
            os.kill(pid, signal.SIGKILL)
        worker.wait()
    asked = time.monotonic()
    found = prefect.until(run, seconds=300)
    assert found["state_type"] == "CRASHED", found["state"]
    assert "No heartbeat" in found["state"]["message"]
    print(f"marked as crashed after {time.monotonic() - asked:.0f} s")


def test_the_server_is_killed_and_started_again(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    store, short = tmp_path / "store", short_leases(tmp_path)
    with serving(environment, tmp_path / "home", **lasting()) as prefect, prefect.worker(**short):
        assert "warning" not in prefect.own("prefect-setup")
        run = prefect.create("knowledge-transfer/knowledge-transfer", {**LONG, "store": str(store)})
        some_steps(prefect, run, store)
        prefect.kill()
        time.sleep(5)
        prefect.start()
        time.sleep(10)  # the lease is renewed in the meantime
        found = prefect.until(run)
        assert found["state_name"] == "Completed", found["state"]["message"]
