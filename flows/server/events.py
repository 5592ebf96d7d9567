"""Emit events to Prefect's server, so that automations can react to runs.

knowledge-transfer.run.finished    payload: run, folder, headline, computed, cached, pinned
knowledge-transfer.run.failed      payload: run, folder, error
knowledge-transfer.run.waiting     payload: run, folder, text, until
knowledge-transfer.score.dropped   payload: run, score, value, before, drop
knowledge-transfer.process.left    of a flow run that waits for a person: its process ended as it should
"""

from __future__ import annotations

import atexit
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from prefect import runtime
from prefect.client.orchestration import get_client
from prefect.events import Event, emit_event
from prefect.settings import PREFECT_API_REQUEST_TIMEOUT, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from flows.records import DIED
from flows.run import Run
from flows.server.history import Past

LEFT = "knowledge-transfer.process.left"


def leave() -> None:
    """Say at the end of this process that it ends as it should.

    Prefect sends heartbeats until shortly after a run was suspended. If a heartbeat is the last that is heard
    of the run, the automation for dead runs takes it for dead.
    """
    flow_run, tags = runtime.flow_run.id, list(runtime.flow_run.tags or ())
    event = Event.model_validate(
        {
            "event": LEFT,
            "resource": {"prefect.resource.id": f"prefect.flow-run.{flow_run}"},
            "related": [
                {"prefect.resource.id": f"prefect.tag.{tag}", "prefect.resource.role": "tag"} for tag in tags
            ],
        }
    )

    def say() -> None:
        now = event.model_dump(mode="json") | {"occurred": datetime.now(UTC).isoformat()}
        quick = {PREFECT_API_REQUEST_TIMEOUT: 5.0, PREFECT_CLIENT_MAX_RETRIES: 0}
        with suppress(Exception), temporary_settings(quick), get_client(sync_client=True) as client:
            client.request("POST", "/events", json=[now])

    atexit.register(say)


def finished(run: Run, result: dict[str, Any]) -> None:
    """Report that a run is done."""
    cached = sum(row["cached"] for row in result["stages"])
    payload = {
        "headline": result["headline"],
        "computed": len(result["stages"]) - cached,
        "cached": cached,
        "pinned": bool(run.record["pinned"]),
    }
    _emit("run.finished", run, payload)


def failed(run: Run, error: BaseException) -> None:
    """Report that a run has failed."""
    _emit("run.failed", run, {"error": " ".join(str(error).split())[:500]})


def waiting(run: Run, text: str, until: str) -> None:
    """Report that a run waits for a person."""
    _emit("run.waiting", run, {"text": text, "until": until})


def died(run: Run, name: str) -> None:
    """Report, from a later run, that an earlier run of the store died. It could not say so itself."""
    resource = {
        "prefect.resource.id": f"knowledge-transfer.run.{name}",
        "prefect.resource.name": name,
    }
    payload = {"run": name, "folder": str(run.folder.parent / name), "error": DIED}
    emit_event("knowledge-transfer.run.failed", resource, payload=payload)


def score_dropped(run: Run, now: Past, before: Past, limit: float) -> bool:
    """Emit an event if the leading score fell by more than `limit` compared with an earlier run.

    Returns:
        Whether it fell by that much.
    """
    new, old = now.leading, before.leading
    if new is None or old is None or new[0] != old[0] or old[1] - new[1] <= limit:
        return False
    drop = {
        "score": new[0],
        "value": new[1],
        "before": old[1],
        "drop": old[1] - new[1],
        "earlier_run": before.name,
    }
    _emit("score.dropped", run, drop)
    return True


def _emit(event: str, run: Run, payload: dict[str, Any]) -> None:
    resource = {
        "prefect.resource.id": f"knowledge-transfer.run.{run.name}",
        "prefect.resource.name": run.name,
        "knowledge-transfer.recipe": run.config.recipe or "run",
    }
    emit_event(
        f"knowledge-transfer.{event}",
        resource,
        payload={"run": run.name, "folder": str(run.folder)} | payload,
    )
