"""A run that waits for a person: it holds nothing, waits as long as it says, and is never passed unasked.

KNOWLEDGE_TRANSFER_WAIT_MINUTES is the length of the longest wait (default: 6, longer than Prefect's leases).
"""

from __future__ import annotations

import json
import os
import signal
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect_server import PARAMETERS, Prefect, lasting, serving, short_leases
from test_kills import processes

from data.errors import StageError
from data.store import Store
from data.types import Artifact
from flows.records import note_deaths, read_record
from flows.run import Run, Waiting
from tasks.config import Config

MINUTES = float(os.environ.get("KNOWLEDGE_TRANSFER_WAIT_MINUTES", "6"))
FLOW = "knowledge-transfer/knowledge-transfer"
REVIEWED: dict[str, Any] = {**PARAMETERS, "review": True, "until": "transfer"}


def history(text: str) -> list[Any]:
    """States of a flow run, from words such as `Running Suspended:ab Resuming Pending Running`."""
    from prefect.client.schemas.objects import State, StateDetails, StateType

    types = {
        "Suspended": StateType.PAUSED,
        "Resuming": StateType.SCHEDULED,
        "AwaitingRetry": StateType.SCHEDULED,
        "Late": StateType.SCHEDULED,
    }
    found = []
    for second, word in enumerate(text.split()):
        name, _, clusters = word.partition(":")
        key = f"review-{clusters}-{second}" if clusters else None
        found.append(
            State(
                type=types.get(name) or StateType(name.upper()),
                name=name,
                timestamp=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=second),
                state_details=StateDetails(pause_key=key),
            )
        )
    return found[::-1]


@pytest.mark.parametrize(
    ("states", "answered"),
    [
        ("Scheduled Pending Running", []),
        ("Scheduled Pending Running Suspended:ab Resuming Pending Running", ["ab"]),
        ("Running Suspended:ab Resuming Late Pending Running", ["ab"]),
        ("Running Suspended:ab Resuming Running Suspended:cd Resuming Pending Running", ["ab", "cd"]),
        # a person paused the run on its page, which answers nothing
        ("Running Suspended:ab Resuming Running Suspended Resuming Running", ["ab"]),
        # it was started again without an answer
        ("Running Suspended:ab AwaitingRetry Pending Running", []),
        ("Running Suspended:ab Running", []),
        ("Running Suspended:ab Resuming Running Suspended:cd AwaitingRetry Running", []),
        # it ended after the answer, in whichever way
        ("Running Suspended:ab Resuming Running Crashed AwaitingRetry Pending Running", []),
        ("Running Suspended:ab Resuming Running Failed AwaitingRetry Pending Running", []),
        ("Running Suspended:ab Resuming Running Cancelling Cancelled AwaitingRetry Running", []),
        ("Running Suspended:ab Resuming Running AwaitingRetry Pending Running", []),
        ("Running Suspended:ab Resuming Pending Crashed AwaitingRetry Pending Running", []),
        # it ended while it waited
        ("Running Suspended:ab Cancelled AwaitingRetry Pending Running", []),
        ("Running Suspended:ab Failed AwaitingRetry Pending Running", []),
        # it was answered after a retry
        ("Running Suspended:ab Failed AwaitingRetry Running Suspended:cd Resuming Pending Running", ["cd"]),
    ],
)
def test_only_resume_is_an_answer(states: str, answered: list[str]) -> None:
    from flows.server.review import resumed

    found = [state.state_details.pause_key.split("-")[1] for state in resumed(history(states))]
    assert found == answered


def test_an_answer_counts_once_and_for_these_clusters_only(tmp_path: Path) -> None:
    from flows.server.review import Review, Reviews

    seen, other = (Artifact(kind="clusters", fingerprint=letter * 64) for letter in "ab")
    reviews = Reviews(False)
    reviews._answers = {"a" * 32: Review(k=7)}
    with Run(Config(store=str(tmp_path)), "run", []) as run, pytest.MonkeyPatch.context() as patch:
        patch.setattr("flows.server.review._id", lambda: "1234")
        with pytest.raises(Waiting):
            reviews.look(run, 12, other)
        assert reviews.look(run, 12, seen) == 7
        with pytest.raises(Waiting, match="waiting for you: a review of 12 clusters"):
            reviews.look(run, 12, seen)
        reviews._answers = {"a" * 32: Review(k=12), "b" * 32: Review(go_on=False)}
        assert reviews.look(run, 12, seen) is None
        with pytest.raises(StageError, match="were rejected"):
            reviews.look(run, 12, other)


def waiting(store: Path, days: float, name: str = "run") -> Path:
    """A run that waits -> its folder."""
    run = Run(Config(store=str(store)), name, [])
    until = datetime.now(UTC) + timedelta(days=days)
    with pytest.raises(Waiting), run:
        raise Waiting("a review of 12 clusters", "press Resume", until, flow_run="1234", key="review-ab-0")
    return run.folder


def test_the_record_says_that_it_waits(tmp_path: Path) -> None:
    folder = waiting(tmp_path, days=7)
    record = read_record(folder)
    assert record["status"] == "waiting"
    assert record["waiting"]["for"] == "a review of 12 clusters"
    assert record["finished"] is None
    assert note_deaths(Store(tmp_path)) == []  # it has no process, but it is not dead
    assert read_record(folder)["status"] == "waiting"


def test_it_waits_no_longer_than_it_says(tmp_path: Path) -> None:
    folder = waiting(tmp_path, days=-1)
    note_deaths(Store(tmp_path))
    record = read_record(folder)
    assert record["status"] == "failed"
    assert "nobody answered" in record["error"]


def test_a_resumed_run_keeps_its_folder(tmp_path: Path) -> None:
    folder = waiting(tmp_path, days=7)
    other = waiting(tmp_path, days=7, name="other")
    record = read_record(other) | {"waiting": {**read_record(other)["waiting"], "flow_run": "5678"}}
    (other / "run.json").write_text(json.dumps(record))
    with Run(Config(store=str(tmp_path)), "run", [], continues="1234") as run:
        assert run.folder == folder
        assert run.waiting() == [("other", "5678")]
        assert read_record(folder)["status"] == "running"
        run.settle("other", "cancelled", "somebody cancelled it")
    assert read_record(folder)["status"] == "done"
    assert read_record(other)["status"] == "cancelled"
    with Run(Config(store=str(tmp_path)), "run", [], continues="1234") as run:
        assert run.folder != folder  # it waits no more


def paused(prefect: Prefect, run: str) -> dict[str, Any]:
    return prefect.until(run, lambda found: found["state_type"] == "PAUSED")


def answer(prefect: Prefect, run: str, **given: Any) -> None:
    prefect.ask(f"/flow_runs/{run}/resume", run_input=given)
    prefect.until(run, lambda found: found["state_type"] != "PAUSED")


def retry(prefect: Prefect, run: str) -> None:
    """Retry as the run's page does."""
    state = {"type": "SCHEDULED", "name": "AwaitingRetry", "message": "retried"}
    assert prefect.ask(f"/flow_runs/{run}/set_state", state=state, force=True)["status"] == "ACCEPT"


def held(prefect: Prefect) -> int:
    """The number of slots that runs hold."""
    limits = prefect.ask("/v2/concurrency_limits/filter", "POST")
    return sum(row["active_slots"] for row in limits)


def none_left(run: str) -> None:
    end = time.monotonic() + 60
    while alive := processes(run):
        assert time.monotonic() < end, alive
        time.sleep(0.2)


@pytest.mark.slow
def test_it_holds_nothing_and_says_that_it_waits(prefect: Prefect, tmp_path: Path) -> None:
    short, store = short_leases(tmp_path), tmp_path / "store"
    with prefect.worker(**short):
        run = prefect.create(FLOW, {**REVIEWED, "store": str(store)})
        found = paused(prefect, run)
        none_left(run)
        time.sleep(10)  # three renewals of a lease
        assert paused(prefect, run)["id"] == found["id"]
        assert held(prefect) == 0
        (told,) = [row["data"] for row in prefect.artifacts(found) if row["key"] == "review"]
        assert "Waiting for you" in told
        assert any(message.startswith("waiting for you") for message in prefect.logs(run))
        (event,) = prefect.events("knowledge-transfer.run.waiting", found["name"])
        assert str(PARAMETERS["k"]) in event["payload"]["text"]
        folder = store / "runs" / found["name"]
        record = json.loads((folder / "run.json").read_text())
        assert record["status"] == "waiting"
        assert f"{found['name']} is waiting for you" in prefect.own("store", "list", "--store", str(store))

        other = prefect.run("knowledge-transfer", {**PARAMETERS, "until": "pretext", "store": str(store)})
        assert other["state_name"] == "Completed", other["state"]["message"]  # its turn is free

        answer(prefect, run)
        ended = prefect.until(run)
        assert ended["state_name"] == "Completed", ended["state"]["message"]
        assert ended["name"] == found["name"]
        record = json.loads((folder / "run.json").read_text())
        assert record["status"] == "done"
        assert record["waiting"] is None
        computed = {row["stage"] for row in record["stages"] if not row["cached"]}
        assert {"pretext", "cluster", "transfer"} <= computed  # by this run, before and after it waited


@pytest.mark.slow
@pytest.mark.parametrize("death", ["killed", "cancelled", "cancelled while waiting", "forced"])
def test_a_retry_asks_again(death: str, prefect: Prefect, tmp_path: Path) -> None:
    long = {"transfer": {"epochs": 3000}}
    with prefect.worker():
        run = prefect.create(FLOW, {**REVIEWED, **long, "store": str(tmp_path)})
        paused(prefect, run)
        if death in ("killed", "cancelled"):
            answer(prefect, run, k=None)
            prefect.until_stage(run, "transfer")
            if death == "killed":
                (flow,) = (pid for pid, command in processes(run).items() if "tasks.child" not in command)
                os.kill(flow, signal.SIGKILL)
            else:
                prefect.ask(f"/flow_runs/{run}/set_state", state={"type": "CANCELLING"}, force=False)
            prefect.until(run, seconds=90)
        elif death == "cancelled while waiting":
            prefect.ask(f"/flow_runs/{run}/set_state", state={"type": "CANCELLING"}, force=False)
            prefect.until(run, seconds=90)
        none_left(run)
        before = set(tmp_path.glob("runs/*"))
        retry(prefect, run)
        prefect.until(run, lambda found: found["state_type"] == "RUNNING")
        paused(prefect, run)
        (again,) = set(tmp_path.glob("runs/*")) - before
        assert json.loads((again / "run.json").read_text())["status"] == "waiting"
        for folder in before:
            assert json.loads((folder / "run.json").read_text())["status"] in ("failed", "cancelled")
        answer(prefect, run, go_on=False)
        ended = prefect.until(run)
        assert ended["state_type"] == "FAILED"
        assert "were rejected" in ended["state"]["message"]


@pytest.mark.slow
def test_it_waits_for_a_long_time_while_the_server_restarts(
    environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "home").mkdir()
    store = tmp_path / "store"
    with serving(environment, tmp_path / "home", **lasting()) as prefect:
        with prefect.worker():
            run = prefect.create(FLOW, {**REVIEWED, "store": str(store)})
            paused(prefect, run)
            time.sleep(MINUTES * 60 / 2)
            prefect.kill()
            time.sleep(10)
            prefect.start()
            time.sleep(MINUTES * 60 / 2)
            assert prefect.state(run)["state_type"] == "PAUSED"
        with prefect.worker():  # another one, as after a restart of its machine
            answer(prefect, run, k=7)
            paused(prefect, run)
            answer(prefect, run)
            found = prefect.until(run)
        assert found["state_name"] == "Completed", found["state"]["message"]
        record = json.loads((store / "runs" / found["name"] / "run.json").read_text())
        assert record["config"]["cluster"]["k"] == 7
