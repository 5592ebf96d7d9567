"""The deployments on a real server and worker: `prefect deployment run knowledge-transfer`."""

from __future__ import annotations

import json
import re
import subprocess
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from conftest import ROOT
from prefect_server import PARAMETERS, Prefect, prefect_command

pytestmark = pytest.mark.slow


def test_deployments_are_as_written(prefect: Prefect) -> None:
    written = {row["name"]: row for row in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]}
    found = {row["name"]: row for row in prefect.ask("/deployments/filter", limit=50)}
    assert (
        written.keys()
        == found.keys()
        == {
            "knowledge-transfer",
            "nightly",
            "smoke",
            "compare",
            "evaluate",
            "predict",
        }
    )
    for name, deployment in found.items():
        assert deployment["entrypoint"] == written[name]["entrypoint"]
        assert deployment["tags"] == written[name]["tags"]
        assert deployment["description"].strip() == written[name]["description"].strip()
        assert deployment["parameters"] == written[name].get("parameters", {})
        assert deployment["work_pool_name"] == "knowledge-transfer"
        assert deployment["job_variables"]["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "30"
        assert len(deployment["schedules"]) == len(written[name]["schedules"])
        assert deployment["enforce_parameter_schema"]
        assert deployment["global_concurrency_limit"]["limit"] == 1
        assert deployment["concurrency_options"]["collision_strategy"] == "ENQUEUE"
    (schedule,) = found["nightly"]["schedules"]
    assert not schedule["active"]
    assert schedule["schedule"]["cron"] == "0 2 * * *"
    assert schedule["schedule"]["timezone"] == "UTC"


def test_setting_up_again_changes_nothing(prefect: Prefect) -> None:
    def there() -> tuple[list[str], list[tuple[str, int]], list[str]]:
        pools = [row["name"] for row in prefect.ask("/work_pools/filter", "POST")]
        limits = [(row["name"], row["limit"]) for row in prefect.ask("/v2/concurrency_limits/filter", "POST")]
        rules = [row["name"] for row in prefect.ask("/automations/filter", "POST") if row["enabled"]]
        return sorted(pools), sorted(limits), sorted(rules)

    before = there()
    assert before[0] == ["knowledge-transfer"]
    assert ("gpu", 1) in before[1]
    assert before[2] == ["knowledge-transfer: a run without heartbeat has crashed"]
    said = prefect.own("prefect-setup")
    assert "gpu" in said
    assert there() == before
    prefect.own("prefect-setup", "--gpus", "2")
    assert ("gpu", 2) in there()[1]
    prefect.own("prefect-setup", "--gpus", "1")


def test_deployment_run_then_again_from_the_store(prefect: Prefect, tmp_path: Path) -> None:
    store = tmp_path / "store"
    first = prefect.run("knowledge-transfer", {**PARAMETERS, "store": str(store)})
    assert first["state_name"] == "Completed", first["state"]["message"]

    stages = prefect.stages(first)
    assert {row["state_name"] for row in stages.values()} == {"Completed"}
    upstream = {
        name: {given["id"] for inputs in row["task_inputs"].values() for given in inputs if "id" in given}
        for name, row in stages.items()
    }
    assert upstream["cluster"] == {stages["embed"]["id"]}
    assert upstream["assign"] == {stages["embed"]["id"], stages["cluster"]["id"]}
    assert stages["distill"]["id"] in upstream["evaluate-student"]

    artifacts = {row["key"]: row for row in prefect.artifacts(first)}
    assert {"scores", "report", "contact-sheet", "stage-cluster", "stage-pretext"} <= artifacts.keys()
    scores = json.loads(artifacts["scores"]["data"])
    assert {"student", "scratch"} <= {row["model"] for row in scores if row["evaluation"] == "few-label"}
    assert str(store) in artifacts["report"]["data"]
    assert "data:image/png;base64," in artifacts["stage-cluster"]["data"]
    assert (
        max(len(row["data"]) for row in artifacts.values() if row["type"] == "markdown") < 280_000
    )  # 200 kB in base64

    second = prefect.run("knowledge-transfer", {**PARAMETERS, "store": str(store)})
    assert second["state_name"] == "Completed", second["state"]["message"]
    assert {row["state_name"] for row in prefect.stages(second).values()} == {"Cached"}
    assert not list(
        Path(prefect.environment["PREFECT_HOME"]).glob("storage/*")
    )  # no results of Prefect's own

    evaluated = prefect.run(
        "evaluate", {"model": first["name"], "store": str(store), "protocols": ["few-label"]}
    )
    assert evaluated["state_name"] == "Completed", evaluated["state"]["message"]

    out = store / "answers.parquet"
    answered = prefect.run(
        "predict", {"model": first["name"], "images": ["digits"], "store": str(store), "out": str(out)}
    )
    assert answered["state_name"] == "Completed", answered["state"]["message"]
    assert pq.read_metadata(out).num_rows == 360
    (told,) = [row["data"] for row in prefect.artifacts(answered) if row["key"] == "predictions"]
    assert "images  360" in told


def test_a_mistake_is_refused_by_the_server_and_by_the_flow(prefect: Prefect, tmp_path: Path) -> None:
    done = subprocess.run(
        [*prefect_command(), "deployment", "run", "knowledge-transfer", "-p", "k=0"],
        env=prefect.environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    run = prefect.run("knowledge-transfer", {"data": {"train": "folder:/nowhere"}, "store": str(tmp_path)})
    assert run["state_name"] == "Failed"
    assert "/nowhere" in run["state"]["message"]


def test_the_automation_of_the_run_book_stops_the_nights_when_the_score_drops(
    prefect: Prefect, tmp_path: Path
) -> None:
    (written,) = re.findall(
        r"```yaml\n(automations:.*?)```", (ROOT / "docs" / "operations.md").read_text(), re.DOTALL
    )
    (tmp_path / "automation.yaml").write_text(written)
    (name,) = (row["name"] for row in yaml.safe_load(written)["automations"])
    deployment = prefect.deployment("knowledge-transfer/nightly")["id"]
    common = {**PARAMETERS, "store": str(tmp_path / "store"), "pin": {"enabled": False}}

    def paused() -> bool:
        return bool(prefect.ask(f"/deployments/{deployment}")["paused"])

    prefect("automation", "create", "--from-file", str(tmp_path / "automation.yaml"))
    try:
        good = prefect.run("nightly", {**common, "epochs": 20, "finetune": {"steps": 60}})
        assert good["state_name"] == "Completed", good["state"]["message"]
        assert not paused()
        bad = prefect.run("nightly", {**common, "finetune": {"steps": 1, "learning_rate": 1e-6}})
        assert bad["state_name"] == "Completed", bad["state"]["message"]
        (dropped,) = prefect.events("knowledge-transfer.score.dropped", bad["name"])
        assert dropped["payload"]["earlier_run"] == good["name"]
        assert dropped["payload"]["drop"] > 0.02
        end = time.monotonic() + 60
        while not paused():
            assert time.monotonic() < end
            time.sleep(0.5)
    finally:
        prefect("--no-prompt", "automation", "delete", name)
        prefect.send(f"/deployments/{deployment}/resume_deployment", "POST", None)
