"""Whether the configured Prefect server answers."""

from __future__ import annotations

from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_REQUEST_TIMEOUT, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from data.errors import ConfigError

PATIENCE = 10.0
"""Seconds that a server may take to answer."""


def refuse_silence() -> None:
    """Refuse to work without an answer from the configured server.

    Raises:
        ConfigError: the server doesn't answer.
    """
    try:
        with (
            temporary_settings({PREFECT_API_REQUEST_TIMEOUT: PATIENCE, PREFECT_CLIENT_MAX_RETRIES: 0}),
            get_client(sync_client=True) as client,
        ):
            url, error = str(client.api_url), client.api_healthcheck()
    except ValueError as wrong:  # the URL is none
        url, error = "PREFECT_API_URL", wrong
    if error is not None:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(
            f"the Prefect server at {url} doesn't answer ({reason}); start it, or set PREFECT_API_URL to one "
            "that runs, or unset it: then `knowledge-transfer` starts its own"
        )
