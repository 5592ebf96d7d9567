"""Thirty nightly runs and two on a real schedule, with a real server and worker, over a changing folder."""

from __future__ import annotations

import json
import shutil
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from in_process import photographs
from prefect_server import Prefect

pytestmark = pytest.mark.slow

EACH = 60
QUICK = {"epochs": 1, "batch_size": 32, "optimizer": "adamw", "learning_rate": 1e-3}
TINY = {"backbone": "smallconv", "width": 0.25}
ALL = {
    "manifest", "pretext", "embed", "cluster", "assign", "transfer", "labels", "finetune-student",
    "finetune-teacher", "predict", "distill", "evaluate-teacher", "evaluate-student-transferred",
    "evaluate-student-finetuned", "evaluate-teacher-finetuned", "evaluate-student", "ship",
    "evaluate-shipped", "answers", "without-leaks", "scores", "report",
}  # fmt: skip
EVALUATED = {name for name in ALL if name.startswith("evaluate-")} | {"scores", "report"}
DRIFTED = {"growth", "embed-drift", "assign-drift", "drift"}
SKIPPED = {"labels", "predict"}
"""Stages that a pinned run skips."""
NIGHTS = (
    "first", "same", "same", "add", "same", "add 2", "remove", "change", "rename", "same",
    "add", "add", "add", "add", "add", "add", "add", "add: one too many", "same", "same",
    "add", "remove", "add", "change", "same", "add 2", "remove", "add", "same", "same",
)  # fmt: skip


class Folder:
    """A folder of training photographs that changes from night to night."""

    def __init__(self, place: Path) -> None:
        self.place = place
        photographs(place / "train", each=EACH)
        photographs(place / "more", each=EACH + 60)
        (place / "test").mkdir()
        for kind in ("temple", "flower"):
            (place / "test" / kind).mkdir()
            for number in range(EACH, EACH + 20):
                name = f"{kind}/{number:03}.png"
                (place / "more" / name).rename(place / "test" / name)
        self.unused = iter(sorted(path for path in (place / "more").rglob("*.png") if int(path.stem) >= EACH))
        self.old = iter(sorted((place / "train").rglob("*.png")))

    def happen(self, what: str) -> None:
        """Change the folder before a night."""
        kind, _, number = what.partition(":")[0].partition(" ")
        for _ in range(int(number or 1)):
            match kind:
                case "add":
                    source = next(self.unused)
                    shutil.copy(source, self.place / "train" / source.parent.name / f"new-{source.name}")
                case "remove":
                    next(self.old).unlink()
                case "change":
                    shutil.copy(next(self.unused), next(self.old))
                case "rename":
                    path = next(self.old)
                    path.rename(path.with_name(f"renamed-{path.name}"))


def test_thirty_nights_and_two_by_the_clock(prefect: Prefect, tmp_path: Path) -> None:
    folder, store = Folder(tmp_path), tmp_path / "store"
    parameters: dict[str, Any] = {
        "train": f"folder:{tmp_path / 'train'}",
        "test": f"folder:{tmp_path / 'test'}",
        "data": {"image_size": 32, "labels_per_class": 5},
        "pretext": {"method": "simclr", **TINY, **QUICK},
        "cluster": {"k": 6},
        "transfer": {"method": "pseudo-labels", **QUICK},
        "student": TINY,
        "finetune": {"steps": 3, "batch_size": 10, "baseline": False},
        "predict": {"neighbours": 0, "student": False, "probe": False},
        "distill": {"epochs": 1, "rounds": 1, "batch_size": 32},
        "evaluate": {"protocols": ["few-label", "clusters"]},
        "pin": {"enabled": True},
        "store": str(store),
    }
    night = datetime(2026, 1, 1, 2, tzinfo=UTC)
    pinned, asked_before = False, True
    runs, answered = [], set[int]()  # answered: numbers of training images, since the last training
    with prefect.worker():
        for number, what in enumerate(NIGHTS):
            folder.happen(what)
            scheduled = night + timedelta(days=number)
            run = prefect.create("knowledge-transfer/nightly", parameters, scheduled.isoformat())
            found = prefect.until(run)
            assert found["state_name"] == "Completed", (what, found["state"]["message"])
            record = json.loads((store / "runs" / found["name"] / "run.json").read_text())
            runs.append(record["name"])
            stages = {row["stage"] for row in record["stages"]}
            computed = {row["stage"] for row in record["stages"] if not row["cached"]}
            images = sum(1 for _ in (tmp_path / "train").rglob("*.png"))

            if what in ("first", "add: one too many"):
                pinned, asked_before = False, False
                answered.clear()
                expected, laid = (
                    ALL | ({"growth"} if number else set()),
                    ALL | ({"growth"} if number else set()),
                )
            elif what == "same":
                laid = (ALL - SKIPPED | DRIFTED) if pinned else ALL | {"growth"}
                expected, asked_before = (set() if asked_before or pinned else {"growth"}), True
            else:
                pinned = True
                laid = ALL - SKIPPED | DRIFTED
                expected = {"manifest", "without-leaks"} | DRIFTED | EVALUATED
                if images not in answered:  # the test images have indices that they never had
                    expected |= {"answers"}
            answered.add(images)
            assert (number, what, computed) == (number, what, expected)
            assert (number, what, stages) == (number, what, laid)
            assert record["pinned"] is pinned
            assert datetime.fromisoformat(record["scheduled"]) == scheduled
            assert record["deployment"] == "nightly"
            states = {name: row["state_name"] for name, row in prefect.stages({"id": run}).items()}
            assert {name for name, state in states.items() if state == "Completed"} == expected
            assert {name for name, state in states.items() if state == "Cached"} == laid - expected
            if not expected:
                said = {row["key"]: row["data"] for row in prefect.artifacts({"id": run})}
                assert f"all {len(laid)} stages were in the store" in said["report"]

        fired = by_the_clock(prefect, parameters, seconds=60)
    for found in fired:
        assert found["state_name"] == "Completed"
        record = json.loads((store / "runs" / found["name"] / "run.json").read_text())
        assert {row["cached"] for row in record["stages"]} == {True}
    artifacts = {row["key"]: row for row in prefect.artifacts(fired[-1])}
    rows = json.loads(artifacts["history"]["data"])
    assert [row["run"] for row in rows][2:] == runs[::-1]
    assert "data:image/png;base64," in artifacts["history-plot"]["data"]
    assert "The networks of run" in artifacts["rerun"]["data"]
    scores = json.loads(artifacts["scores"]["data"])
    assert {row["change"] for row in scores} == {0}
    events = prefect.events("knowledge-transfer.run.finished", fired[1]["name"])
    finished = [event["payload"]["run"] for event in events]
    assert finished[: len(NIGHTS) + 2] == [fired[1]["name"], fired[0]["name"], *runs[::-1]]


def by_the_clock(prefect: Prefect, parameters: dict[str, Any], seconds: int) -> list[dict[str, Any]]:
    """Schedule the deployment, wait for two scheduled runs, remove the schedule -> the runs, in order."""
    deployment = prefect.deployment("knowledge-transfer/nightly")["id"]
    start = (datetime.now(UTC) + timedelta(seconds=20)).isoformat()
    schedule = {"interval": seconds, "anchor_date": start, "timezone": "UTC"}
    wanted = [{"active": True, "schedule": schedule, "parameters": parameters}]
    made = prefect.send(f"/deployments/{deployment}/schedules", "POST", wanted)
    try:
        end = time.monotonic() + 300
        while True:
            rows = prefect.ask(
                "/flow_runs/filter",
                flow_runs={
                    "deployment_id": {"any_": [deployment]},
                    "state": {"type": {"any_": ["COMPLETED"]}},
                },
                sort="EXPECTED_START_TIME_DESC",
                limit=10,
            )
            fired = [row for row in rows if row["auto_scheduled"]]
            if len(fired) >= 2:
                return fired[:2][::-1]
            assert time.monotonic() < end, rows
            time.sleep(1)
    finally:
        prefect.ask(f"/deployments/{deployment}/schedules/{made[0]['id']}", "DELETE")
