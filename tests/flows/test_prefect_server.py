"""The deployments on a real server and worker: `prefect deployment run knowledge-transfer`, from the project's root."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT

pytestmark = pytest.mark.slow

PARAMETERS: dict[str, Any] = {
    "k": 12,
    "epochs": 1,
    "pretext": {"width": 0.25},
    "transfer": {"epochs": 1},
    "student": {"width": 0.25},
    "finetune": {"steps": 4},
    "distill": {"epochs": 1},
}
START, WORK = 180.0, 600.0
"""Seconds until the server answers, and for one run."""


class Prefect:
    """A server, and the `prefect` command pointed at it."""

    def __init__(self, url: str, environment: dict[str, str]) -> None:
        self.url, self.environment = url, {**environment, "PREFECT_API_URL": url}
        # as installed: what is on the path must be what pip put there
        del self.environment["PYTHONPATH"]

    def __call__(self, *words: str, **more: str) -> str:
        done = subprocess.run(
            [*_prefect(), *words],
            env={**self.environment, **more},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=WORK,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def ask(self, path: str, **body: Any) -> Any:
        data = json.dumps(body).encode() if body else None
        request = urllib.request.Request(f"{self.url}{path}", data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def run(self, deployment: str, parameters: dict[str, Any]) -> dict[str, Any]:
        """Have a worker run a deployment once -> the flow run."""
        given = [word for name, value in parameters.items() for word in ("-p", f"{name}={json.dumps(value)}")]
        said = self("deployment", "run", deployment, *given)
        run_id = said.partition("UUID: ")[2].split()[0]
        self("worker", "start", "--pool", "knowledge-transfer", "--run-once", PREFECT_PLUGINS_ENABLED="false")
        end = time.monotonic() + WORK
        while (run := self.ask(f"/flow_runs/{run_id}"))["state_type"] not in ("COMPLETED", "FAILED", "CRASHED"):
            assert time.monotonic() < end, run
            time.sleep(1)
        found: dict[str, Any] = run
        return found

    def stages(self, run: dict[str, Any]) -> dict[str, dict[str, Any]]:
        rows = self.ask("/task_runs/filter", flow_runs={"id": {"any_": [run["id"]]}})
        return {row["name"]: row for row in rows}

    def artifacts(self, run: dict[str, Any]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask(
            "/artifacts/filter", artifacts={"flow_run_id": {"any_": [run["id"]]}}, limit=200
        )
        return found


def _prefect() -> list[str]:
    beside = Path(sys.executable).with_name("prefect")
    return [str(beside)] if beside.exists() else [sys.executable, "-m", "prefect"]


@pytest.fixture(scope="module")
def prefect(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prefect]:
    if not any(point.value == "flows.prefect_cli" for point in entry_points(group="prefect.plugins")):
        pytest.skip("the project is not installed; pip install -e .")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    home = tmp_path_factory.mktemp("server")
    prefect = Prefect(f"http://127.0.0.1:{port}/api", {**environment, "PREFECT_HOME": str(home)})
    with (home / "server.log").open("w") as log:
        server = subprocess.Popen(
            [*_prefect(), "server", "start", "--host", "127.0.0.1", "--port", str(port)],
            env=prefect.environment,
            cwd=home,
            stdout=log,
            stderr=log,
        )
    try:
        end = time.monotonic() + START
        while True:
            assert server.poll() is None, (home / "server.log").read_text()
            assert time.monotonic() < end, (home / "server.log").read_text()
            try:
                prefect.ask("/health")
                break
            except OSError:
                time.sleep(0.5)
        prefect("work-pool", "create", "knowledge-transfer", "--type", "process")
        prefect("--no-prompt", "deploy", "--all")
        yield prefect
    finally:
        server.terminate()
        server.wait(60)


def test_deployments_are_as_written(prefect: Prefect) -> None:
    written = {row["name"]: row for row in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]}
    found = {row["name"]: row for row in prefect.ask("/deployments/filter", limit=50)}
    assert written.keys() == found.keys() == {"knowledge-transfer", "nightly", "compare", "evaluate"}
    for name, deployment in found.items():
        assert deployment["entrypoint"] == written[name]["entrypoint"]
        assert deployment["tags"] == written[name]["tags"]
        assert deployment["enforce_parameter_schema"]
        assert deployment["global_concurrency_limit"]["limit"] == 1
        assert deployment["concurrency_options"]["collision_strategy"] == "ENQUEUE"
    (schedule,) = found["nightly"]["schedules"]
    assert not schedule["active"]
    assert schedule["schedule"]["cron"] == "0 2 * * *"
    assert schedule["schedule"]["timezone"] == "UTC"


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
    assert not list(Path(prefect.environment["PREFECT_HOME"]).glob("storage/*"))  # no results of Prefect's own

    evaluated = prefect.run("evaluate", {"model": first["name"], "store": str(store), "protocols": ["few-label"]})
    assert evaluated["state_name"] == "Completed", evaluated["state"]["message"]


def test_a_mistake_is_refused_by_the_server_and_by_the_flow(prefect: Prefect, tmp_path: Path) -> None:
    done = subprocess.run(
        [*_prefect(), "deployment", "run", "knowledge-transfer", "-p", "k=0"],
        env=prefect.environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    run = prefect.run("knowledge-transfer", {"data": {"train": "folder:/nowhere"}, "store": str(tmp_path)})
    assert run["state_name"] == "Failed"
    assert "/nowhere" in run["state"]["message"]
