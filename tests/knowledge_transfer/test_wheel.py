"""The wheel installs one name, is complete, and works beside user modules with our packages' names."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT, TINY, settings
from hostile import make_hostile

FOLDERS = ("knowledge_transfer", "flows", "tasks", "models", "data")
BUILD = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
TRACE = """
import sys
from knowledge_transfer.__main__ import main
status = main()
ours = ("data", "models", "tasks", "flows")
inside = {name: module.__file__ for name, module in sys.modules.items() if name in ours}
assert len(inside) == 4, inside
assert all("/_inside/" in file for file in inside.values()), inside
sys.exit(status)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from the checkout with the backend that pip would fetch, without network."""
    folder = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(folder)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(folder)
    return folder


def test_it_installs_one_name(unpacked: Path) -> None:
    (metadata,) = unpacked.glob("*.dist-info")
    assert {path.name for path in unpacked.iterdir()} == {"knowledge_transfer", metadata.name}
    assert metadata.name.startswith("knowledge_transfer-")
    points = (metadata / "entry_points.txt").read_text()
    assert "knowledge-transfer = knowledge_transfer.__main__:main" in points
    assert "knowledge-transfer = knowledge_transfer.prefect_cli" in points


def test_it_holds_all_files_and_no_others(unpacked: Path) -> None:
    wanted = {ROOT / "prefect.yaml": unpacked / "knowledge_transfer" / "_inside" / "prefect.yaml"}
    for folder in FOLDERS:
        place = unpacked if folder == "knowledge_transfer" else unpacked / "knowledge_transfer" / "_inside"
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                wanted[path] = place / path.relative_to(ROOT)
    assert any(path.suffix == ".j2" for path in wanted)
    for path, packed in wanted.items():
        assert packed.read_bytes() == path.read_bytes(), path
    found = {path for path in (unpacked / "knowledge_transfer").rglob("*") if path.is_file()}
    assert found == set(wanted.values())


def test_commands_work_from_it_in_a_hostile_folder(
    unpacked: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    make_hostile(tmp_path)
    for options in (["-P"], []):
        done = subprocess.run(
            [sys.executable, *options, "-c", TRACE, "list"],
            cwd=tmp_path,
            env={**environment, "PYTHONPATH": str(unpacked)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert "digits" in done.stdout.split()


def test_a_run_works_from_it_in_a_hostile_folder(
    unpacked: Path, environment: dict[str, str], server: str, tmp_path: Path
) -> None:
    make_hostile(tmp_path)
    words = settings(
        *TINY, 'evaluate.protocols=["few-label"]', "pretext.method=deepcluster", "pretext.flip=0"
    )
    done = subprocess.run(
        [sys.executable, "-m", "knowledge_transfer", "run", "digits", "--json", *words],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(unpacked), "PREFECT_API_URL": server},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["status"] == "done"
    assert Path(result["folder"]).is_relative_to(tmp_path / "store" / "runs")


def test_spawned_workers_find_the_packages_inside(
    unpacked: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    make_hostile(tmp_path)
    code = """
from knowledge_transfer.place import enter
enter()
from data.spread import spread
from data.store import digest
if __name__ == "__main__":
    assert list(spread(digest, [1, 2, 3], 2)) == [digest(1), digest(2), digest(3)]
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(unpacked)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
