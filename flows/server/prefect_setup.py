"""Create what a Prefect server needs once: work pool, GPU limit, automation for dead runs, deployments.

You can repeat this. It brings existing objects to the same state, and changes nothing else on the server.
"""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml
from prefect.automations import Automation
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.exceptions import ObjectNotFound
from prefect.workers.process import ProcessWorker
from pydantic import TypeAdapter

from data.errors import StageError
from data.processes import environment
from flows.server.events import LEFT
from flows.server.reach import refuse_silence

DEPLOYMENTS = Path(__file__).parents[2] / "prefect.yaml"
POOL = "knowledge-transfer"
DEAD = "knowledge-transfer: a run without heartbeat has crashed"
SILENCE = timedelta(seconds=90)
"""Three heartbeats. prefect.yaml asks for one every 30 seconds."""
TAG = "knowledge-transfer"
"""The tag of our deployments and their runs. Other flows on the server may have rarer heartbeats, or none."""
_ENDED = ("Completed", "Failed", "TimedOut", "Crashed", "Cancelled", "Paused", "Suspended")
_BEGUN = (
    "Scheduled", "AwaitingRetry", "AwaitingConcurrencySlot", "Late", "Resuming", "Pending", "Submitting",
    "InfrastructurePending", "Running", "Retrying",
)  # fmt: skip
"""States of a run that was started again. It may wait for its turn for longer than `SILENCE`."""
LASTING = "prefect.server.concurrency.lease_storage.filesystem"
"""Prefect's storage of leases that survives a restart of the server."""
_FORGETFUL = "prefect.server.concurrency.lease_storage.memory"
AWAY = timedelta(days=7)
"""How long a server should remember for which runs' heartbeats it waits. If it is away for longer, a run that
dies meanwhile may stay *Running*."""


def prefect_setup(gpus: int) -> list[str]:
    """Bring the configured server into the state that the deployments need.

    Args:
        gpus: number of stages that may use the GPUs of this server's workers at once, 0 or more.

    Returns:
        A line for each thing that now exists.

    Raises:
        ConfigError: the server doesn't answer.
    """
    slot = import_module("flows.server.gpu").SLOT
    refuse_silence()
    with get_client(sync_client=True) as client:
        lines = [_pool(client)]
        client.upsert_global_concurrency_limit_by_name(slot, gpus)
        lines.append(f"concurrency limit {slot}: {gpus}")
        lines.append(_automation())
        settings = client.request("GET", "/admin/settings").json().get("server", {})
        lines += [_leases(settings), _memory(settings)]
    return lines


def _leases(settings: dict[str, Any]) -> str:
    """Say whether runs survive a restart of the server. The server reads this setting once, at its start."""
    storage = settings.get("concurrency", {}).get("lease_storage")
    if storage == _FORGETFUL:
        return (
            "warning: the server keeps the leases of running runs in memory, so a restart of the server ends "
            f"them; start it with PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE={LASTING}"
        )
    return f"leases of running runs: {storage}"


def _memory(settings: dict[str, Any]) -> str:
    """Say whether the automation ends runs that died while the server was away.

    The server waits for a run's next heartbeat until `SILENCE` after the last one. When it starts, it first
    drops what it waited for in vain for longer than this setting says, and only then runs the automation.
    """
    kept: timedelta = TypeAdapter(timedelta).validate_python(
        settings.get("events", {}).get("expired_bucket_buffer", 0)
    )
    if kept < AWAY:
        return (
            f"warning: if the server is away for longer than {(SILENCE + kept).total_seconds():.0f} s, runs "
            "that die meanwhile may stay Running for good; start it with "
            f"PREFECT_SERVER_EVENTS_EXPIRED_BUCKET_BUFFER=P{AWAY.days}D"
        )
    return f"the server may be away for {kept.days} days: it then ends the runs that died meanwhile"


def deploy() -> str:
    """Create the deployments of our prefect.yaml on the configured server; runs start in the current folder.

    Returns:
        A line that says what now exists.

    Raises:
        StageError: Prefect refused.
    """
    words = ["--no-prompt", "deploy", "--all", "--prefect-file", str(DEPLOYMENTS)]
    # Prefect records the current folder as the one that runs start in.
    done = subprocess.run(
        [sys.executable, "-m", "prefect", *words],
        env=environment() | {"PREFECT_PLUGINS_ENABLED": "false"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        said = " ".join((done.stdout + done.stderr).split())
        raise StageError(f"prefect-setup: the deployments of {DEPLOYMENTS} could not be created: {said}")
    names = [row["name"] for row in yaml.safe_load(DEPLOYMENTS.read_text(encoding="utf-8"))["deployments"]]
    return f"deployments {', '.join(names)}: runs start in {Path.cwd()}"


def _pool(client: SyncPrefectClient) -> str:
    try:
        client.read_work_pool(POOL)
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process", base_job_template=template))
    return f"work pool {POOL}: process"


def _automation() -> str:
    """Mark runs as crashed if their heartbeat stops, whether the flow, the worker or the machine died."""
    wanted = Automation(
        name=DEAD,
        description=(
            "The flow process, worker or machine died without a message. "
            "A retry resumes from what is in the store."
        ),
        trigger=EventTrigger(
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related={"prefect.resource.id": f"prefect.tag.{TAG}", "prefect.resource.role": "tag"},
            for_each={"prefect.resource.id"},
            after={"prefect.flow-run.heartbeat"},
            expect={
                "prefect.flow-run.heartbeat",
                LEFT,
                *(f"prefect.flow-run.{state}" for state in (*_ENDED, *_BEGUN)),
            },
            posture=Posture.Proactive,
            threshold=1,
            within=SILENCE,
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                message="No heartbeat: its process or machine died. A retry resumes from what was done.",
            )
        ],
    )
    known = _known(DEAD)
    if known is None:
        wanted.create()
    else:
        wanted.id = known.id
        wanted.update()
    return f"automation {DEAD!r}: after {SILENCE.seconds} s"


def _known(name: str) -> Any:
    try:
        return Automation.read(name=name)
    except ValueError:
        return None
