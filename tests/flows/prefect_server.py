"""A real Prefect server with the project's deployments, a real worker, and helpers that query them."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

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
"""Timeouts in seconds: until the server answers, and for one run."""
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
POOL = "knowledge-transfer"


class Prefect:
    """A server, and the `prefect` command configured to use it.

    Args:
        environment: environment of all processes.
        home: folder of the server's database and log.
        port: port on loopback.
    """

    def __init__(self, environment: dict[str, str], home: Path, port: int) -> None:
        self.home, self.port, self.url = home, port, f"http://127.0.0.1:{port}/api"
        self.environment = {
            **environment,
            "PREFECT_HOME": str(home),
            "PREFECT_API_URL": self.url,
            "PREFECT_SERVER_UI_API_URL": self.url,
            "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "5",
            "PREFECT_SERVER_SERVICES_SCHEDULER_DEPLOYMENT_BATCH_SIZE": "100",
        }
        del self.environment["PYTHONPATH"]  # as if installed: only what pip installed may be on the path
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server and wait until it answers."""
        with (self.home / "server.log").open("a") as log:
            self.process = subprocess.Popen(
                [*prefect_command(), "server", "start", "--host", "127.0.0.1", "--port", str(self.port)],
                env=self.environment,
                cwd=self.home,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        end = time.monotonic() + START
        while True:
            said = (self.home / "server.log").read_text()
            assert self.process.poll() is None, said
            assert time.monotonic() < end, said
            try:
                self.ask("/health")
                return
            except OSError:
                time.sleep(0.5)

    def kill(self) -> None:
        """Stop the server and its processes immediately."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(60)

    def stop(self) -> None:
        """Run a `prefect` command, as a user would."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(60)

    def deploy(self) -> None:
        """Do the one-time setup that docs/operations.md describes."""
        self.own("prefect-setup")
        self("--no-prompt", "deploy", "--all")

    def __call__(self, *words: str, **more: str) -> str:
        return self._command([*prefect_command(), *words], more)

    def own(self, *words: str) -> str:
        """Run a `knowledge-transfer` command."""
        return self._command([sys.executable, "-m", "flows", *words], {})

    def _command(self, command: list[str], more: dict[str, str]) -> str:
        done = subprocess.run(
            command, env={**self.environment, **more}, cwd=ROOT, capture_output=True, text=True, timeout=WORK
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def ask(self, path: str, method: str | None = None, **body: Any) -> Any:
        """Send a request to the API and return the answer. A request with a body is a POST."""
        return self.send(path, method, body if body or method == "POST" else None)

    def send(self, path: str, method: str | None, body: Any) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        if "PREFECT_API_AUTH_STRING" in self.environment:
            word = base64.b64encode(self.environment["PREFECT_API_AUTH_STRING"].encode()).decode()
            headers["Authorization"] = f"Basic {word}"
        request = urllib.request.Request(f"{self.url}{path}", data, headers, method=method)
        end = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    said = answer.read()
                return json.loads(said) if said else None
            except urllib.error.HTTPError as error:  # the database is busy; Prefect's own clients retry too
                if error.code != 503 or time.monotonic() > end:
                    raise
                time.sleep(1)

    def deployment(self, name: str) -> dict[str, Any]:
        """A deployment, by its FLOW/DEPLOYMENT name."""
        found: dict[str, Any] = self.ask(f"/deployments/name/{name}")
        return found

    @property
    def pages(self) -> str:
        """URL of the server's pages."""
        return f"http://127.0.0.1:{self.port}/v2"

    def logs(self, run: str) -> list[str]:
        """The log of a flow run and of its stages."""
        found: list[str] = []
        while rows := self.ask(
            "/logs/filter",
            logs={"flow_run_id": {"any_": [run]}},
            sort="TIMESTAMP_ASC",
            limit=200,
            offset=len(found),
        ):
            found += [row["message"] for row in rows]
        return found

    def create(self, deployment: str, parameters: dict[str, Any], scheduled: str | None = None) -> str:
        """Request a run, due now or at a time in the past -> its id."""
        details = {"scheduled_time": scheduled} if scheduled else {}
        state = {"type": "SCHEDULED", "state_details": details}
        path = f"/deployments/{self.deployment(deployment)['id']}/create_flow_run"
        made = self.ask(path, parameters=parameters, state=state)
        return str(made["id"])

    def state(self, run: str) -> dict[str, Any]:
        found: dict[str, Any] = self.ask(f"/flow_runs/{run}")
        return found

    def until(
        self, run: str, there: Callable[[dict[str, Any]], bool] | None = None, seconds: float = WORK
    ) -> dict[str, Any]:
        """Wait until a run has ended, or until another condition on it is true."""
        wanted = there or (lambda found: found["state_type"] in ENDED)
        end = time.monotonic() + seconds
        while not wanted(found := self.state(run)):
            assert time.monotonic() < end, (found["state_name"], found["state"]["message"])
            time.sleep(0.5)
        return found

    def until_stage(self, run: str, stage: str, seconds: float = WORK) -> None:
        """Wait until a stage is running."""
        end = time.monotonic() + seconds
        while self.stages({"id": run}).get(stage, {}).get("state_name") != "Running":
            found = self.state(run)
            assert found["state_type"] not in ENDED, found["state"]["message"]
            assert time.monotonic() < end, found
            time.sleep(0.2)

    def run(self, deployment: str, parameters: dict[str, Any]) -> dict[str, Any]:
        """Have a worker run a deployment once -> the flow run."""
        given = [word for name, value in parameters.items() for word in ("-p", f"{name}={json.dumps(value)}")]
        said = self("deployment", "run", deployment, *given)
        run_id = said.partition("UUID: ")[2].split()[0]
        self("worker", "start", "--pool", POOL, "--run-once", PREFECT_PLUGINS_ENABLED="false")
        return self.until(run_id)

    @contextmanager
    def worker(self, **more: str) -> Iterator[subprocess.Popen[bytes]]:
        """A worker that polls every second until the end of the block. `more` is for its environment."""
        environment = {
            **self.environment,
            **more,
            "PREFECT_PLUGINS_ENABLED": "false",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
        }
        with (self.home / "worker.log").open("a") as log:
            process = subprocess.Popen(
                [*prefect_command(), "worker", "start", "--pool", POOL],
                env=environment,
                cwd=ROOT,
                stdout=log,
                stderr=log,
            )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def stages(self, run: dict[str, Any]) -> dict[str, dict[str, Any]]:
        rows = self.ask("/task_runs/filter", flow_runs={"id": {"any_": [run["id"]]}})
        return {row["name"]: row for row in rows}

    def artifacts(self, run: dict[str, Any]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask(
            "/artifacts/filter", artifacts={"flow_run_id": {"any_": [run["id"]]}}, limit=200
        )
        return found

    def events(self, name: str, last: str) -> list[dict[str, Any]]:
        """Events with this name, newest first.

        Events arrive a few seconds late, so this waits for the event of run `last`.
        """
        end = time.monotonic() + 60
        while True:
            found = self.ask("/events/filter", filter={"event": {"name": [name]}}, limit=50)
            events: list[dict[str, Any]] = found["events"]
            if events and events[0]["payload"]["run"] == last:
                return events
            assert time.monotonic() < end, events
            time.sleep(1)


def lasting() -> dict[str, str]:
    """The settings of the run book with which runs survive that the server is away."""
    page = (ROOT / "docs/operations.md").read_text()
    return dict(re.findall(r"export (PREFECT_SERVER_(?:CONCURRENCY|EVENTS)\w+)=(\S+)", page))


def short_leases(folder: Path) -> dict[str, str]:
    """The environment of a worker whose runs renew their leases every 3 s, not every 225 s.

    Args:
        folder: for a module that changes Prefect's constant once Prefect has been imported.
    """
    (folder / "sitecustomize.py").write_text(
        """
import importlib.util, sys

class Shorten:
    def find_spec(self, name, path=None, target=None):
        if name != "prefect.concurrency._leases":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module
        def exec_module(module):
            load(module)
            assert module._RENEWAL_FRACTION == 0.75
            module._RENEWAL_FRACTION = 3 / 300
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Shorten())
"""
    )
    return {"PYTHONPATH": str(folder)}


def prefect_command() -> list[str]:
    beside = Path(sys.executable).with_name("prefect")
    return [str(beside)] if beside.exists() else [sys.executable, "-m", "prefect"]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def serving(environment: dict[str, str], home: Path, **more: str) -> Iterator[Prefect]:
    """A server that is ready for runs. `more` are environment settings for all processes."""
    if not any(
        point.value == "knowledge_transfer.prefect_cli" for point in entry_points(group="prefect.plugins")
    ):
        pytest.skip("the project is not installed; pip install -e .")
    prefect = Prefect({**environment, **more}, home, free_port())
    prefect.start()
    try:
        prefect.deploy()
        yield prefect
    finally:
        prefect.stop()
