"""The review: a run pauses until a person has looked at the clusters on its page."""

from __future__ import annotations

from typing import Any

from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from pydantic import Field

from data.errors import StageError

PATIENCE = 7 * 24 * 3600
"""Seconds after which a run without an answer fails."""


class Review(RunInput):
    """A person's answer about the clusters."""

    go_on: bool = Field(True, description="Continue with these clusters. Off: stop the run here.")
    k: int | None = Field(
        None,
        ge=1,
        description="Cluster again, into this many clusters (1 or more), and ask again. Empty: keep them.",
    )


def ask(k: int, place: str) -> int | None:
    """Pause the flow run until somebody answers.

    Args:
        k: the current number of clusters.
        place: folder of the clusters' files.

    Returns:
        Another k, or None to continue.

    Raises:
        StageError: the person rejected the clusters.
    """
    text = (
        f"{k} clusters: see the artifacts **stage-cluster** and **contact-sheet** of this run. "
        f"The files are in `{place}`."
    )
    wanted: Any = Review.with_initial_data(description=text)
    answer = pause_flow_run(wait_for_input=wanted, timeout=PATIENCE, poll_interval=2)
    if not answer.go_on:
        raise StageError(f"review: the clusters (k = {k}) were rejected; run again with another cluster.k")
    return None if answer.k in (None, k) else answer.k
