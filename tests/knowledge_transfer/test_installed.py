"""The wheel in a separate environment, without a checkout: commands, an external method, a worker's run."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import ROOT, TINY, settings
from hostile import make_hostile

sys.path.append(str(ROOT / "tests" / "flows"))
from prefect_server import PARAMETERS, POOL, Prefect, free_port

pytestmark = pytest.mark.slow

UV = Path(sys.executable).with_name("uv")
Give = Callable[..., str]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program folder of a new environment with the wheel and the method of `examples/barlow-twins`."""
    uv = str(UV) if UV.exists() else shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not there; pip install uv")
    folder = tmp_path_factory.mktemp("installed")
    example = shutil.copytree(ROOT / "examples" / "barlow-twins", folder / "barlow-twins")
    for words in (
        ["build", "--wheel", "--out-dir", str(folder), str(ROOT)],
        ["venv", "--python", sys.executable, str(folder / "venv")],
        ["pip", "install", "--python", str(folder / "venv" / "bin" / "python"), "WHEEL", str(example)],
    ):
        wheel = next(folder.glob("*.whl"), None)
        command = [uv, *(str(wheel) if word == "WHEEL" else word for word in words)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return folder / "venv" / "bin"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_hostile(tmp_path_factory.mktemp("users"))


@pytest.fixture(scope="module")
def give(installed: Path, folder: Path) -> Give:
    """A function that runs a command in the user's folder -> its stdout."""

    def run(environment: dict[str, str], program: str, *words: str, place: Path = folder) -> str:
        kept = {name: value for name, value in environment.items() if name != "PYTHONPATH"}
        done = subprocess.run(
            [str(installed / program), *words],
            cwd=place,
            env=kept,
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="module")
def server_of_one(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prefect]:
    """A Prefect server without a deployment."""
    prefect = Prefect(environment, tmp_path_factory.mktemp("server"), free_port())
    prefect.start()
    yield prefect
    prefect.stop()


def test_one_name_is_installed(installed: Path) -> None:
    (packages,) = installed.parent.glob("lib/*/site-packages")
    assert {"knowledge_transfer", "barlow_twins"} <= {path.name for path in packages.iterdir()}
    for name in ("data", "models", "tasks", "flows"):
        assert not list(packages.glob(f"{name}*"))


def test_a_method_from_outside_runs_in_a_hostile_folder(
    give: Give, environment: dict[str, str], folder: Path
) -> None:
    assert "barlow-twins " in give(environment, "knowledge-transfer", "list")
    quick = settings(
        *TINY, 'evaluate.protocols=["few-label"]', "pretext.method=barlow-twins", "embed.layer=features"
    )
    said = json.loads(
        give(environment, "python", "-m", "knowledge_transfer", "run", "digits", "--json", *quick)
    )
    assert said["status"] == "done"
    record = json.loads((Path(said["folder"]) / "run.json").read_text())
    assert record["config"]["pretext"]["method"] == "barlow-twins"
    assert Path(said["folder"]).is_relative_to(folder)


def test_from_python_in_a_hostile_folder(give: Give, environment: dict[str, str], folder: Path) -> None:
    code = """
import sys, knowledge_transfer as kt
run = kt.run("digits", pretext={"method": "barlow-twins", "width": 0.25, "epochs": 1}, until="pretext")
assert not {"data", "models", "tasks", "flows", "torch", "prefect"} & set(sys.modules)
try:
    run.student
except kt.UserError as error:
    print(run.status, error)
"""
    said = give(environment, "python", "-c", code)
    assert said.startswith("done")
    assert "has no trained student" in said


def test_a_worker_runs_a_deployment_without_a_checkout(
    give: Give, server_of_one: Prefect, folder: Path, tmp_path: Path
) -> None:
    prefect = server_of_one
    said = give(prefect.environment, "knowledge-transfer", "prefect-setup", "--deploy")
    assert f"runs start in {folder}" in said
    names = {row["name"] for row in prefect.ask("/deployments/filter", limit=50)}
    assert names == {
        "knowledge-transfer",
        "nightly",
        "smoke",
        "compare",
        "evaluate",
        "predict",
    }

    run = prefect.create(
        "knowledge-transfer/knowledge-transfer", {**PARAMETERS, "evaluate": {"protocols": ["few-label"]}}
    )
    give(prefect.environment, "prefect", "worker", "start", "--pool", POOL, "--run-once", place=tmp_path)
    ended = prefect.until(run)
    assert ended["state_name"] == "Completed", "\n".join(prefect.logs(run))
    (record,) = folder.glob("store/runs/digits-simclr-*/run.json")
    assert json.loads(record.read_text())["deployment"] == "knowledge-transfer"
