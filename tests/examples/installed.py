"""Run code in processes that see the packages under `examples/` as if they were installed."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

from conftest import ROOT


def as_installed(example: str, folder: Path) -> dict[str, str]:
    """The environment of a process that sees an example as installed: its metadata are on the path.

    Args:
        example: name of its folder under `examples/`.
        folder: folder to write the metadata to.
    """
    place = ROOT / "examples" / example
    project = tomllib.loads((place / "pyproject.toml").read_text())["project"]
    metadata = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    points = [
        line
        for group, entries in project["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {value}" for name, value in entries.items()))
    ]
    (metadata / "entry_points.txt").write_text("\n".join(points))
    path = [folder, place, ROOT, ROOT / "tests" / "flows", ROOT / "tests"]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path)), "OMP_NUM_THREADS": "1"}


def python(code: str, environment: dict[str, str], *words: str) -> str:
    """Run code in a separate process and return its stdout."""
    command = [sys.executable, "-W", "error", "-c", code, *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout
