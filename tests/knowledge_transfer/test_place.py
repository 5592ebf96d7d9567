"""Where the inner packages are, what puts them on the path, and which systems are refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from hostile import make_hostile

from knowledge_transfer import __main__
from knowledge_transfer.place import enter, place


def python(code: str, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run code in a folder, which Python then puts first on its path."""
    return subprocess.run(
        [sys.executable, *options, "-c", code],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


def test_in_a_checkout_the_packages_lie_beside_ours() -> None:
    assert place() == ROOT


def test_entering_twice_puts_the_place_first_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", ["/elsewhere", str(ROOT), *sys.path])
    enter()
    enter()
    assert sys.path[0] == str(ROOT)
    assert sys.path[1] == "/elsewhere"
    assert sys.path.count(str(ROOT)) == 1


def test_our_packages_are_found_before_the_users(tmp_path: Path) -> None:
    make_hostile(tmp_path)
    done = python(
        "from knowledge_transfer.place import enter; enter(); import data.errors, models, tasks, flows",
        tmp_path,
    )
    assert done.returncode == 0, done.stderr


def test_a_foreign_module_that_is_loaded_already_is_named(tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text("")
    done = python("import models; from knowledge_transfer.place import enter; enter()", tmp_path)
    assert done.returncode == 1
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("ImportError")]
    assert "'models'" in said
    assert str(tmp_path / "models.py") in said
    assert "rename" in said


def test_importing_loads_nothing_heavy(tmp_path: Path) -> None:
    make_hostile(tmp_path)
    code = """
import sys
before = set(sys.modules)
import knowledge_transfer as kt
assert kt.__version__
names = {name.partition(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)
assert names == {"knowledge_transfer"}, names
"""
    done = python(code, tmp_path)
    assert done.returncode == 0, done.stderr


def test_other_systems_are_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert __main__.main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("knowledge-transfer: ")
    assert all(word in line for word in ("darwin", "Linux", "FAISS", "WSL2", "container"))
