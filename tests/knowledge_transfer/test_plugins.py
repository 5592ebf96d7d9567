"""The names that external methods import exist, are lazy, and are ours whatever the current folder has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from hostile import make_hostile

from knowledge_transfer import plugins


def test_every_name_is_there() -> None:
    assert all(getattr(plugins, name) is not None for name in plugins.__all__)
    assert dir(plugins) == plugins.__all__ == sorted(plugins.__all__)


def test_another_name_is_refused_with_those_that_are_there() -> None:
    with pytest.raises(AttributeError, match=r"'Teachers'.*Teacher"):
        _ = plugins.Teachers  # type: ignore[attr-defined]


def test_configurations_need_no_torch_and_no_module_of_the_users(tmp_path: Path) -> None:
    make_hostile(tmp_path)
    code = """
import sys
from knowledge_transfer.plugins import AsymmetricViews, Descriptor, Optimization, Teacher, Transfer, Views
assert Teacher.__module__ == "models.configs.shared"
assert "torch" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
