"""Stages are found by name, in our files and through entry points of other packages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from data.errors import ConfigError
from tasks.found import stage_module

OURS = '''"""Extra: what a package brings."""
from tasks.stage import Leaf, Request
STAGE = Leaf("extra", "scores", version=1, process="plain", reads=("manifest",))
def plan(config, manifest): ...
'''


def environment(folder: Path, point: str, code: str = OURS) -> dict[str, str]:
    """The environment of a process that sees a package with one module and one entry point as installed."""
    (folder / "extra.py").write_text(code)
    metadata = folder / "extra-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: extra\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text(f"[knowledge_transfer.stage]\n{point}\n")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}


def run(code: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_a_stage_that_nobody_brings_is_named() -> None:
    with pytest.raises(
        ConfigError, match="stage 'nowhere' is not known here; install the package that brings it"
    ):
        stage_module("nowhere")


def test_a_package_brings_a_leaf_that_is_known_by_name_and_sentence(tmp_path: Path) -> None:
    code = (
        "import sys; from tasks.config import Evaluate, protocols; print(protocols()['extra'])\n"
        "Evaluate(protocols=['extra']); assert 'torch' not in sys.modules and 'pyarrow' not in sys.modules"
    )
    done = run(code, environment(tmp_path, "extra = extra"))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "what a package brings\n"


@pytest.mark.parametrize(
    ("point", "code", "said"),
    [
        ("cluster = extra", OURS, "a stage 'cluster' already exists"),
        (
            "extra = extra",
            OURS.replace('Leaf("extra"', 'Leaf("other"'),
            "STAGE must be a Stage named 'extra'",
        ),
        ("extra = extra", "STAGE = 1", "STAGE must be a Stage named 'extra'"),
    ],
)
def test_a_wrong_declaration_is_said_in_a_line(tmp_path: Path, point: str, code: str, said: str) -> None:
    done = run("from tasks.found import leaves; leaves()", environment(tmp_path, point, code))
    assert said in done.stderr.splitlines()[-1]
