"""Fixtures that several tests share: an isolated Prefect, the command line, and markers."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
TINY = (
    "pretext.epochs=1",
    "pretext.width=0.25",
    "transfer.epochs=1",
    "student.width=0.25",
    "finetune.steps=4",
    "distill.epochs=1",
    "cluster.k=12",
)
"""Changes to the recipe `digits` that keep all stages but make them fast."""

SWITCHES = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
"""Chromium's: it may run as root and without a GPU, and asks no server by itself."""

Command = Callable[..., subprocess.CompletedProcess[str]]


def pytest_configure() -> None:
    """Let Ctrl-C reach the processes that tests start.

    A shell that starts the tests in the background makes them ignore it, and their children inherit that.
    Then workers and servers that a test interrupts never end.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect without the garbage collector, and let it pass over what was made then.

    These are nearly all imports and tests. They stay, and it would look at them again and again.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        atexit.register(gc.unfreeze)  # libraries complain in the end about what is never freed
        gc.enable()


def settings(*pairs: str) -> list[str]:
    """`a=1` -> `--set a=1`."""
    return [word for pair in pairs for word in ("--set", pair)]


@pytest.fixture(scope="session")
def prefect_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prefect's home folder for the tests, so that the user's own is never touched."""
    return tmp_path_factory.mktemp("prefect")


@pytest.fixture(scope="session")
def environment(prefect_home: Path) -> dict[str, str]:
    """The environment of commands: one thread, and none of the user's Prefect settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return {
        **kept,
        "PREFECT_HOME": str(prefect_home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }


@pytest.fixture(scope="session")
def server(environment: dict[str, str]) -> Iterator[str]:
    """URL of a Prefect server that all commands of a session share, so that not each starts its own."""
    code = (
        "import sys; from flows.server.embedded import EmbeddedServer, configure\n"
        "configure(); server = EmbeddedServer(); server.wait();"
        " print(server.url, flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        yield process.stdout.readline().strip()
        process.stdin.close()


@pytest.fixture
def command(environment: dict[str, str], server: str, tmp_path: Path) -> Command:
    """A function that runs a command of the project in an empty folder -> exit status, stdout and stderr."""

    def give(*words: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "flows", *words],
            env={**environment, "PREFECT_API_URL": server},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return give


@pytest.fixture(scope="session")
def odd_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of odd images that KNOWLEDGE_TRANSFER_ODD_IMAGES names, as a folder or a tar file.

    If the variable is not set, the test is skipped.
    """
    given = os.environ.get("KNOWLEDGE_TRANSFER_ODD_IMAGES")
    if not given:
        pytest.skip("KNOWLEDGE_TRANSFER_ODD_IMAGES names no folder or tar")
    if Path(given).is_dir():
        return Path(given)
    folder = tmp_path_factory.mktemp("odd")
    with tarfile.open(given) as packed:
        packed.extractall(folder, filter="data")
    (inner,) = folder.iterdir()
    return inner


@pytest.fixture(scope="session")
def prefect(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A Prefect server with its own SQLite database and all deployments, shared by the slow flow tests."""
    from prefect_server import serving

    with serving(environment, tmp_path_factory.mktemp("server")) as prefect:
        yield prefect


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The system's Chromium, driven by Playwright. Without one of the two, the test is skipped.

    Not for the whole session: while Playwright is at work, nothing else may start an event loop here.
    """
    sync_api = pytest.importorskip("playwright.sync_api")
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next((found for name in names if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip("Chromium is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=SWITCHES)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A small finished run on digits that ships a model: `tiny_digits.TinyDigits`. For the flows' tests."""
    from tiny_digits import tiny_digits

    return tiny_digits(tmp_path_factory.mktemp("tiny"))
