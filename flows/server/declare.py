"""Declare our flows to Prefect."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import ParamSpec, TypeVar

from prefect import Flow, flow

P = ParamSpec("P")
R = TypeVar("R")


def timed(name: str) -> str:
    """A run's name: the given name and the current time, UTC."""
    return f"{name}-{datetime.now(UTC):%Y%m%d-%H%M%S}"


def our_flow(name: str, run_name: Callable[[], str] | None = None) -> Callable[[Callable[P, R]], Flow[P, R]]:
    """Declare a flow. Prefect validates its parameters and keeps no results.

    Args:
        name: the flow's name.
        run_name: returns the name of a run; None: the flow's name and the time.
    """

    def named() -> str:
        return timed(name) if run_name is None else run_name()

    def declare(function: Callable[P, R]) -> Flow[P, R]:
        return flow(
            name=name,
            flow_run_name=named,
            validate_parameters=True,
            persist_result=False,
            result_serializer="json",
        )(function)

    return declare
