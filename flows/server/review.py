"""The gate `review`: a run waits until a person has looked at the clusters on its page."""

from __future__ import annotations

from typing import Any

from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from pydantic import Field

from data.errors import StageError

PATIENCE = 7 * 24 * 3600
"""Seconds until a run that nobody looks at fails."""


class Review(RunInput):
    """What a person says of the clusters."""

    go_on: bool = Field(True, description="Go on with these clusters; off: stop the run here.")
    k: int | None = Field(
        None, ge=1, description="Cluster anew into this many (1 or more), and ask again; empty: keep."
    )


def ask(k: int, place: str) -> int | None:
    """Pause the flow run until somebody answers.

    Args:
        k: number of clusters now.
        place: folder of what there is to look at.

    Returns:
        Another k, or None to go on.

    Raises:
        StageError: they said no.
    """
    text = f"{k} clusters: see the artifacts **stage-cluster** and **contact-sheet** of this run; all of it is in `{place}`."
    wanted: Any = Review.with_initial_data(description=text)
    answer = pause_flow_run(wait_for_input=wanted, timeout=PATIENCE, poll_interval=2)
    if not answer.go_on:
        raise StageError(f"review: the clusters (k = {k}) were turned down; run again with another cluster.k")
    return None if answer.k in (None, k) else answer.k
