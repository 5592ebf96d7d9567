"""A run that is stopped or killed in training leaves no process behind, and the same command resumes it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import TINY, settings

pytestmark = pytest.mark.slow

DEADLINE = 60.0
"""Seconds within which the child processes must end. They take a few."""
LONG = (*TINY, "pretext.epochs=40", "evaluate.protocols=[clusters]", "finetune.baseline=false")
"""Settings for a long training with little work after it."""


def start(environment: dict[str, str], folder: Path, store: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "flows", "run", *settings(*LONG), "--store", store],
        env=environment,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def until_training(run: subprocess.Popen[str]) -> list[int]:
    """Wait for the first steps of pretext -> the process ids of the children."""
    assert run.stderr is not None
    for line in run.stderr:
        if line.split()[:1] == ["pretext"] and " of " in line:
            break
    else:
        pytest.fail("the run ended before it trained")
    children = Path(f"/proc/{run.pid}/task").glob("*/children")
    pids = [int(word) for file in children for word in file.read_text().split()]
    assert len(pids) == 3  # Prefect's server, the two kinds of stage processes
    return pids


def wait_gone(pids: list[int]) -> None:
    end = time.monotonic() + DEADLINE
    while any(running(pid) for pid in pids):
        assert time.monotonic() < end, "a child outlived its parent"
        time.sleep(0.2)


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def weights(store: Path) -> bytes:
    """The teacher's checkpoint, the only one whose stage reads nothing but a manifest."""
    found = []
    for meta in store.glob("artifacts/checkpoint/*/meta.json"):
        if json.loads(meta.read_text())["stage"] == "pretext":
            found.append((meta.parent / "model.safetensors").read_bytes())
    assert len(found) == 1
    return found[0]


def test_killed_in_pretext_then_resumed_equals_undisturbed(
    environment: dict[str, str], tmp_path: Path
) -> None:
    run = start(environment, tmp_path, "killed")
    with run:
        children = until_training(run)
        run.kill()
    wait_gone(children)
    drafts = [
        path.parent.parent for path in (tmp_path / "killed").glob("drafts/checkpoint/*/state/training.pt")
    ]
    assert len(drafts) == 1
    assert not list((tmp_path / "killed").glob("artifacts/checkpoint/*"))

    again = start(environment, tmp_path, "killed")
    with again:
        assert again.stderr is not None
        said = again.stderr.read()
    assert again.returncode == 0, said
    assert "resuming at step" in said
    assert not drafts[0].exists()

    undisturbed = start(environment, tmp_path, "undisturbed")
    with undisturbed:
        assert undisturbed.stderr is not None
        said = undisturbed.stderr.read()
    assert undisturbed.returncode == 0, said
    assert "resuming at step" not in said
    assert weights(tmp_path / "killed") == weights(tmp_path / "undisturbed")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop(number: signal.Signals, environment: dict[str, str], tmp_path: Path) -> None:
    run = start(environment, tmp_path, "store")
    with run:
        children = until_training(run)
        os.kill(run.pid, number)
        assert run.stderr is not None
        said = run.stderr.read()
    assert run.returncode == 130
    assert said.splitlines()[-1].startswith("knowledge-transfer: interrupted")
    assert "Traceback" not in said
    wait_gone(children)
    (record,) = (tmp_path / "store").glob("runs/*/run.json")
    assert json.loads(record.read_text())["status"] == "cancelled"
    assert len(list((tmp_path / "store").glob("drafts/checkpoint/*/state/training.pt"))) == 1
