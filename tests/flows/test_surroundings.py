"""What a command needs around it: a living server, a home, no proxy in the way. Else one line says why."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import settings
from prefect_server import free_port

from flows.ending import PATIENCE

LONG = settings("pretext.epochs=2000", "pretext.width=0.25", "until=pretext")
START = 240.0
"""Seconds until a run has begun to train: imports, a new database, the manifest."""


def code(text: str, environment: dict[str, str], folder: Path, **more: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", text],
        env={**environment, **more},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def refused(environment: dict[str, str], folder: Path, **more: str) -> str:
    """Give the command `run`, which must be refused before any work -> the line on stderr that says why."""
    done = subprocess.run(
        [sys.executable, "-m", "flows", "run", "digits", "--store", str(folder / "store")],
        env={**environment, **more},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert not list((folder / "store").glob("runs/*"))
    (line,) = done.stderr.strip().splitlines()
    return line


def test_a_dead_server_refuses_its_clients(environment: dict[str, str], tmp_path: Path) -> None:
    text = """
import contextlib, os, signal, socket
from flows.server.embedded import EmbeddedServer
server = EmbeddedServer()
os.kill(server.pid, signal.SIGKILL)
with contextlib.suppress(ChildProcessError):
    os.waitid(os.P_PID, server.pid, os.WEXITED | os.WNOWAIT)
host, _, port = server.url.removeprefix("http://").removesuffix("/api").partition(":")
try:
    socket.create_connection((host, int(port)), timeout=5)
    print("connected")
except ConnectionRefusedError:
    print("refused")
"""
    assert code(text, environment, tmp_path) == "refused"


def test_whoever_started_a_server_hears_of_its_death(environment: dict[str, str], tmp_path: Path) -> None:
    text = """
import os, signal, threading
from flows.server.embedded import EmbeddedServer, configure
configure()
told = threading.Event()
def lost(error):
    print(error.status, error, sep="|")
    told.set()
server = EmbeddedServer(lost)
server.wait()
os.kill(server.pid, signal.SIGKILL)
assert told.wait(30)
"""
    status, _, line = code(text, environment, tmp_path).partition("|")
    assert status == "1"
    assert "SIGKILL" in line
    log = Path(line.partition("its log: ")[2].partition(")")[0])
    assert "give the same command again" in line
    assert log.suffix == ".log"


def test_a_command_that_hangs_ends_after_sigterm(environment: dict[str, str], tmp_path: Path) -> None:
    text = """
import os, signal, time
from flows import ending
ending.PATIENCE = 0.2
signal.signal(signal.SIGTERM, lambda *_: None)
def give_up():
    print("gave up", flush=True)
    os._exit(0)
ending.always_end(give_up)
signal.signal(signal.SIGTERM, lambda *_: None)  # as Prefect does while a flow runs
os.kill(os.getpid(), signal.SIGTERM)
while True:
    time.sleep(1)
"""
    assert code(text, environment, tmp_path) == "gave up"


def test_a_proxy_does_not_hide_this_machine(environment: dict[str, str], server: str, tmp_path: Path) -> None:
    text = """
import os
from flows.server.embedded import configure
assert configure()
from flows.server.reach import refuse_silence
refuse_silence()
print(os.environ["NO_PROXY"])
"""
    nothing = f"http://127.0.0.1:{free_port()}"
    proxies = {name: nothing for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY")}
    said = code(text, environment, tmp_path, PREFECT_API_URL=server, no_proxy="example.org", **proxies)
    assert said == "example.org,127.0.0.1,localhost,::1"


def test_a_home_that_can_not_be_written(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / ".env").mkdir()  # a virtual environment, which is no file of settings
    (tmp_path / "file").touch()
    home = str(tmp_path / "file" / "prefect")
    line = refused(environment, tmp_path, PREFECT_HOME=home)
    assert home in line
    assert "set PREFECT_HOME" in line


def test_settings_that_can_not_be_read(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"NAME=\xff\xfe")
    line = refused(environment, tmp_path)
    assert str(tmp_path / ".env") in line
    assert "UTF-8" in line


@pytest.mark.parametrize("url", ["http://127.0.0.1:{}/api", "nonsense"])
def test_a_server_that_is_not_there(url: str, environment: dict[str, str], tmp_path: Path) -> None:
    line = refused(environment, tmp_path, PREFECT_API_URL=url.format(free_port()))
    assert "PREFECT_API_URL" in line
    assert "doesn't answer" in line


@pytest.fixture
def training(environment: dict[str, str], tmp_path: Path) -> Iterator[Callable[[], Any]]:
    """A function that starts a long run with an embedded server -> its process and the server's pid."""
    started: list[int] = []
    with (tmp_path / "said").open("w") as said_here:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "flows",
                "run",
                "digits",
                "--json",
                "--store",
                str(tmp_path / "store"),
                *LONG,
            ],
            env={**environment, "PREFECT_HOME": str(tmp_path / "home")},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=said_here,
            text=True,
        )

    def begin() -> tuple[subprocess.Popen[str], int]:
        end = time.monotonic() + START
        while "pretext" not in (said := (tmp_path / "said").read_text()):
            assert process.poll() is None, said
            assert time.monotonic() < end, said
            time.sleep(0.2)
        (server,) = children(process.pid, "flows.server.embedded")
        started.append(server)
        return process, server

    yield begin
    for pid in (*started, process.pid):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.communicate()


def children(parent: int, module: str) -> list[int]:
    """The child processes of a process that run a module."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            above = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            if int(above) == parent and module.encode() in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def over(process: subprocess.Popen[str], folder: Path, within: float) -> tuple[dict[str, Any], str]:
    """Wait for the end of a run -> the object that it printed, and the last line of its stderr."""
    out, _ = process.communicate(timeout=within)
    return json.loads(out), (folder / "said").read_text().strip().rpartition("\n")[2]


@pytest.mark.slow
def test_the_embedded_server_is_killed(training: Callable[[], Any], tmp_path: Path) -> None:
    process, server = training()
    trainers = children(process.pid, "tasks.child")
    assert trainers
    os.kill(server, signal.SIGKILL)
    result, line = over(process, tmp_path, within=20)
    assert process.returncode == 1
    assert result["status"] == "failed"
    assert line == f"knowledge-transfer: {result['error']}"
    assert "SIGKILL" in line
    (record,) = (tmp_path / "store").glob("runs/*/run.json")
    assert json.loads(record.read_text())["status"] == "failed"
    end = time.monotonic() + 60
    while any(lives(pid) for pid in trainers):
        assert time.monotonic() < end
        time.sleep(0.2)


@pytest.mark.slow
def test_sigterm_ends_a_run_whose_server_hangs(training: Callable[[], Any], tmp_path: Path) -> None:
    process, server = training()
    os.kill(server, signal.SIGSTOP)
    time.sleep(2)
    process.terminate()
    result, line = over(process, tmp_path, within=PATIENCE + 30)
    assert process.returncode == 130
    assert result["status"] == "cancelled"
    assert "interrupted" in line
    (record,) = (tmp_path / "store").glob("runs/*/run.json")
    assert json.loads(record.read_text())["status"] == "cancelled"
    end = time.monotonic() + 10
    while lives(server):
        assert time.monotonic() < end
        time.sleep(0.2)
