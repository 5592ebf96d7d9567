"""A Prefect server that slow tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from prefect_server import Prefect, serving


@pytest.fixture(scope="session")
def prefect(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prefect]:
    """On a SQLite database of its own, with all deployments."""
    with serving(environment, tmp_path_factory.mktemp("server")) as prefect:
        yield prefect
