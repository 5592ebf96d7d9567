"""A quiet Prefect server for one command. It runs if none is configured, and ends with the command.

Prefect can start a temporary server itself. This one differs in three ways. It starts while Prefect is being
imported. Ctrl-C does not reach it before the run has ended its stages. It ends even if the process that
started it is killed.

    python -m flows.server.embedded FD     serves on the listening socket FD until its stdin ends
"""

from __future__ import annotations

import atexit
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
import urllib.request
from pathlib import Path
from typing import Any

from data.errors import StageError
from data.processes import environment

START = 180.0
"""Seconds the server may take to start. It migrates a new database first, which is slow on some machines."""

QUIET = {
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # log lines go only to the run's page
    "PREFECT_INTERNAL_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
    "PREFECT_PLUGINS_ENABLED": "false",  # only the `prefect` command needs plugins
    "DO_NOT_TRACK": "1",
}


def configure() -> bool:
    """Make Prefect quiet, except where the user chose a setting. Call this before Prefect is imported.

    Returns:
        True if the user has configured a server.
    """
    chosen = _chosen()
    for name, value in QUIET.items():
        if name not in chosen:
            os.environ[name] = value
    return "PREFECT_API_URL" in chosen


def _chosen() -> set[str]:
    """Names of the user's Prefect settings: environment, active profile and files of the current folder."""
    names = set(os.environ)
    home = Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser()
    profiles = _toml(Path(os.environ.get("PREFECT_PROFILES_PATH", home / "profiles.toml")))
    active = os.environ.get("PREFECT_PROFILE", profiles.get("active"))
    names |= set(profiles.get("profiles", {}).get(active, {}))
    here = _toml(Path("pyproject.toml")).get("tool", {}).get("prefect", {}) | _toml(Path("prefect.toml"))
    names |= {f"PREFECT_{name}" for name in _flat(here)}
    if Path(".env").is_file():  # it may be a virtual environment
        names |= {
            line.partition("=")[0].strip() for line in Path(".env").read_text(encoding="utf-8").splitlines()
        }
    return names


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError):  # missing, or broken, which Prefect reports
        return {}


def _flat(table: dict[str, Any], prefix: str = "PREFECT") -> set[str]:
    """{"api": {"url": ...}} -> {"PREFECT_API_URL"}."""
    names: set[str] = set()
    for key, value in table.items():
        name = f"{prefix}_{key.upper()}"
        names |= _flat(value, name) if isinstance(value, dict) else {name}
    return names


class EmbeddedServer:
    """A server on a free loopback port. `PREFECT_API_URL` holds its address until this process ends.

    Create it before Prefect is imported. Then the exit handlers of the two run in the right order: Prefect
    sends its last messages, and then the server stops. The server takes seconds to start, so do something
    else before you call `wait`.
    """

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/api"
        os.environ["PREFECT_API_URL"] = self.url
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # open as long as the server
        self._process = subprocess.Popen(
            [sys.executable, "-m", "flows.server.embedded", str(self._socket.fileno())],
            stdin=subprocess.PIPE,
            stdout=self._errors,
            stderr=self._errors,
            pass_fds=[self._socket.fileno()],
            env={**environment(), "PREFECT_UI_ENABLED": "false"},
            start_new_session=True,  # Ctrl-C reaches only us: the server must record the end of the run
        )
        atexit.register(self.stop)

    def wait(self) -> None:
        """Wait until the server answers.

        Raises:
            StageError: the server ended, or takes too long.
        """
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        deadline = time.monotonic() + START
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                with direct.open(f"{self.url}/health", timeout=5):
                    return
            except OSError:  # the server is not up yet; URLError is an OSError
                time.sleep(0.1)
        self._errors.seek(0)
        last = self._errors.read().decode(errors="replace").strip().rpartition("\n")[2]
        raise StageError(
            f"Prefect's embedded server did not start ({last or 'no answer'}); "
            "start one with `prefect server start` and name it in PREFECT_API_URL"
        )

    def stop(self) -> None:
        """Stop the server."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._socket.close()
        self._errors.close()


def _serve(fd: int) -> None:
    import uvicorn

    def follow() -> None:
        sys.stdin.buffer.read()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    uvicorn.run(
        "prefect.server.api.server:create_app", factory=True, fd=fd, log_level="critical", lifespan="on"
    )


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
