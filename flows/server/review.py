"""The review: a run waits until a person has looked at the clusters on its page.

The run is suspended: its process ends, so that it holds no slot, no lease and no memory, and no restart can
hurt it. When the person presses *Resume*, a worker starts it again. It finds its stages in the store, comes
to the same clusters, and takes the answer that was given about them.

An answer counts only after somebody has resumed the run, only in the run that was resumed, and only for
exactly the clusters that were shown. After any other end (a failure, a kill, a cancel), a retry asks again.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, NoReturn
from uuid import UUID, uuid4

from prefect import runtime
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import State, StateType
from prefect.exceptions import ObjectNotFound
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from pydantic import Field

from data.errors import ConfigError, StageError
from data.types import Artifact
from flows.run import Run, Waiting
from flows.server import events

PATIENCE = timedelta(days=7)
"""Time after which a run without an answer fails."""
_PREFIX, _NAMED = "review-", 32
"""The beginning of the keys of our questions, and the number of characters of the clusters' fingerprint in
them."""


class Review(RunInput):
    """A person's answer about the clusters."""

    go_on: bool = Field(True, description="Continue with these clusters. Off: stop the run here.")
    k: int | None = Field(
        None,
        ge=1,
        description="Cluster again, into this many clusters (1 or more), and ask again. Empty: keep them.",
    )


class Reviews:
    """The answers that this flow run was resumed with.

    Args:
        reviewed: whether the run has reviews. If it has none, the server is not asked.

    Attributes:
        resumed: whether the run was suspended by a review and resumed by a person.
    """

    def __init__(self, reviewed: bool) -> None:
        self._answers: dict[str, Review] = {}
        if reviewed:
            with get_client(sync_client=True) as client:
                for state in resumed(client.read_flow_run_states(_id())):
                    self._answers[_clusters(state)] = _answer(client, state)
        self.resumed = bool(self._answers)

    def look(self, run: Run, k: int, clusters: Artifact) -> int | None:
        """Return a person's answer about clusters, or ask for it.

        Args:
            run: the run.
            k: the current number of clusters.
            clusters: the clusters.

        Returns:
            Another k, or None to continue.

        Raises:
            StageError: the person rejected the clusters.
            Waiting: nobody has answered yet. Call `suspend` after the run has ended.
        """
        # An answer counts once. Otherwise, two answers that name each other's k would repeat for ever.
        answer = self._answers.pop(clusters.fingerprint[:_NAMED], None)
        if answer is None:
            raise Waiting(
                f"a review of {k} clusters",
                f"look at the artifacts stage-cluster and contact-sheet on this run's page, or at "
                f"{run.store.folder(clusters)}, then press Resume on the page",
                datetime.now(UTC) + PATIENCE,
                flow_run=str(_id()),
                key=f"{_PREFIX}{clusters.fingerprint[:_NAMED]}-{uuid4().hex}",
            )
        if not answer.go_on:
            raise StageError(
                f"review: the clusters (k = {k}) were rejected; run again with another cluster.k"
            )
        return None if answer.k in (None, k) else answer.k


def suspend(waiting: Waiting) -> NoReturn:
    """Suspend this flow run until a person answers. This ends the process.

    Raises:
        Pause: always. Prefect then ends the process.
    """
    events.leave()
    wanted: Any = Review.with_initial_data(description=f"Waiting for you: {waiting.what}. {waiting.how}.")
    suspend_flow_run(wait_for_input=wanted, timeout=int(PATIENCE.total_seconds()), key=waiting.key)
    raise AssertionError("Prefect did not suspend the run")


def refuse_without_page() -> None:
    """Refuse a review in a run that can't wait for a person.

    Raises:
        ConfigError: the run is not one of a deployment, or it is part of another run.
    """
    if runtime.deployment.name is None:
        raise ConfigError(
            "review = true needs a run of a deployment, because a person answers on the run's page; "
            "set review=false, or start the run from a deployment"
        )
    if runtime.flow_run.parent_flow_run_id is not None:
        raise ConfigError(
            "review = true: this run is part of another one, such as of compare, which can't wait for a "
            "person; set review=false"
        )


def resumed(states: list[State]) -> list[State]:
    """The suspensions that a person ended by *Resume*, since the flow run last ended in any other way.

    Args:
        states: all states of the flow run; the last one is that of the current process.

    Returns:
        The suspended states, the earliest first.
    """
    ordered = sorted(states, key=lambda state: state.timestamp)
    found: list[State] = []
    for before, after in reversed(list(pairwise(ordered))):
        if before.type == StateType.PAUSED:
            if (after.type, after.name) != (StateType.SCHEDULED, "Resuming"):
                break
            if _clusters(before):
                found.append(before)
        elif before.type == StateType.RUNNING:
            if after.type != StateType.PAUSED:
                break
        elif before.type not in (StateType.SCHEDULED, StateType.PENDING):
            break
    return found[::-1]


def settle(run: Run) -> None:
    """Correct the records of the store's runs that say "waiting" although the runs have ended.

    Args:
        run: the current run. A run that waits and that this run retries counts as ended.
    """
    others = run.waiting()
    if not others:
        return
    with get_client(sync_client=True) as client:
        for name, flow_run in others:
            with suppress(ObjectNotFound, ValueError):  # of another server, or deleted
                state = client.read_flow_run(UUID(flow_run)).state
                if flow_run == str(_id()):
                    run.settle(name, "failed", "it was retried")
                elif state is not None and state.is_final():
                    status = "cancelled" if state.is_cancelled() else "failed"
                    run.settle(name, status, state.message or "it ended while it waited")


def _id() -> Any:
    found = runtime.flow_run.id
    assert found is not None
    return found


def _clusters(state: State) -> str:
    """The beginning of the fingerprint of the clusters that a suspension asks about; empty if it does not."""
    key = state.state_details.pause_key or ""
    return key.removeprefix(_PREFIX).partition("-")[0] if key.startswith(_PREFIX) else ""


def _answer(client: SyncPrefectClient, state: State) -> Review:
    """What a person answered. The server keeps no answer if all of its fields are empty."""
    keys = state.state_details.run_input_keyset
    assert keys is not None
    try:
        said = client.read_flow_run_input(_id(), key=keys["response"])
    except Exception as error:
        if getattr(getattr(error, "response", None), "status_code", None) == 404:
            return Review()
        raise
    return Review.model_validate_json(said)
