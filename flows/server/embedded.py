"""A quiet Prefect server for one command. It runs if none is configured, and ends with the command.

Prefect can start a temporary server itself. This one differs in four ways. It starts while Prefect is being
imported. Ctrl-C does not reach it before the run has ended its stages. It ends even if the process that
started it is killed. If it dies, the command ends too, at once.

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
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data.errors import ConfigError, StageError
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
LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Names of this machine. A proxy would take them for itself."""


def configure() -> bool:
    """Make Prefect quiet, except where the user chose a setting. Call this before Prefect is imported.

    It also keeps this process and its children from asking a proxy for servers on this machine.

    Returns:
        True if the user has configured a server.

    Raises:
        ConfigError: the file .env can't be read.
    """
    chosen = _chosen()
    for name, value in QUIET.items():
        if name not in chosen:
            os.environ[name] = value
    _reach_loopback()
    return "PREFECT_API_URL" in chosen


def _reach_loopback() -> None:
    """Add the loopback hosts to NO_PROXY. Libraries differ in the case that they read, so both are set."""
    named = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    hosts = [host.strip() for host in named.split(",") if host.strip()]
    if "*" not in hosts:
        hosts += [host for host in LOOPBACK if host not in hosts]
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(hosts)


def prepare_home() -> None:
    """Create Prefect's folder, which holds the embedded server's database.

    Raises:
        ConfigError: the folder can't be written.
    """
    named = os.environ.get("PREFECT_HOME") or "~/.prefect"
    try:
        home = Path(named).expanduser()
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home):
            pass
        database = home / "prefect.db"
        if database.exists() and not os.access(database, os.W_OK):
            raise PermissionError(0, "Permission denied", str(database))
    except (OSError, RuntimeError) as error:  # RuntimeError: this user has no home
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(
            f"Prefect's embedded server keeps its database in the folder {named!r}, which can't be written "
            f"({reason}); set PREFECT_HOME to a folder that can be written"
        ) from None


def _chosen() -> set[str]:
    """Names of the user's Prefect settings: environment, active profile and files of the current folder."""
    names = set(os.environ)
    try:
        home = Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser()
    except RuntimeError:  # this user has no home, and so no profiles
        home = Path("/nonexistent")
    profiles = _toml(Path(os.environ.get("PREFECT_PROFILES_PATH", home / "profiles.toml")))
    active = os.environ.get("PREFECT_PROFILE", profiles.get("active"))
    names |= set(profiles.get("profiles", {}).get(active, {}))
    here = _toml(Path("pyproject.toml")).get("tool", {}).get("prefect", {}) | _toml(Path("prefect.toml"))
    names |= {f"PREFECT_{name}" for name in _flat(here)}
    if Path(".env").is_file():  # it may be a virtual environment
        try:
            lines = Path(".env").read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise ConfigError(
                f"the file {str(Path('.env').absolute())!r} can't be read ({reason}), and Prefect reads it "
                "for settings; mend or rename it, or give the command in another folder"
            ) from None
        names |= {line.partition("=")[0].strip().removeprefix("export ").strip() for line in lines}
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

    Create it before Prefect is imported. Then the exit handlers run in the right order: Prefect sends its
    last messages, and then the server stops. The server takes seconds to start, so do something else before
    you call `wait`.

    Args:
        lost: called from another thread if the server ends without `stop` after it was up. It should end this
            process, because a thread that waits for the server would wait for ever.
    """

    def __init__(self, lost: Callable[[StageError], object] | None = None) -> None:
        listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listening.getsockname()[1]}/api"
        os.environ["PREFECT_API_URL"] = self.url
        log, name = tempfile.mkstemp(prefix="knowledge-transfer-server-", suffix=".log")
        self.log = Path(name)
        self._lost, self._up, self._stopping = lost, False, False
        self._process = subprocess.Popen(
            [sys.executable, "-m", "flows.server.embedded", str(listening.fileno())],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            pass_fds=[listening.fileno()],
            env={**environment(), "PREFECT_UI_ENABLED": "false"},
            start_new_session=True,  # Ctrl-C reaches only us: the server must record the end of the run
        )
        os.close(log)
        listening.close()  # if the server dies, its clients must be refused instead of waiting for ever
        threading.Thread(target=self._watch, daemon=True, name="embedded server").start()
        STARTED.append(self)
        atexit.register(self.stop)

    @property
    def pid(self) -> int:
        """The number of the server's process."""
        return self._process.pid

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
                    self._up = True
                    return
            except OSError:  # the server is not up yet; URLError is an OSError
                time.sleep(0.1)
        last = self.log.read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]
        raise StageError(
            f"Prefect's embedded server did not start ({last or 'no answer'}); "
            "start one with `prefect server start` and name it in PREFECT_API_URL"
        )

    def stop(self) -> None:
        """Stop the server."""
        assert self._process.stdin is not None
        self._stopping = True
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self.log.unlink(missing_ok=True)

    def kill(self) -> None:
        """End the server at once, even if it hangs."""
        self._stopping = True
        self._process.kill()

    def _watch(self) -> None:
        status = self._process.wait()
        if self._stopping or not self._up or self._lost is None:
            return
        how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        self._lost(
            StageError(
                f"Prefect's embedded server ended while the run was going ({how}; its log: {self.log}); what "
                "was done is kept: give the same command again, or start a server with `prefect server "
                "start` and name it in PREFECT_API_URL"
            )
        )


STARTED: list[EmbeddedServer] = []
"""The servers of this process."""


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
