"""The example of an external method is found by its entry point, runs in the chain, has the paper's loss."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from conftest import ROOT

EXAMPLE = ROOT / "examples" / "barlow-twins"

RUN = """
import sys
from pathlib import Path
from in_process import photographs, run_chain
from flows.recipes import override
from tasks.config import Config

place = Path(sys.argv[1])
photographs(place / "photographs", each=40)
quick = {"epochs": 1, "batch_size": 16, "optimizer": "adamw", "learning_rate": 1e-3}
small = {"backbone": "smallconv", "width": 0.25}
config = override(Config(), {
    "data": {"train": f"folder:{place / 'photographs'}", "image_size": 32, "labels_per_class": 4},
    "pretext": {"method": "barlow-twins", "projection": 32, **small, **quick},
    "cluster": {"k": 4},
    "transfer": quick,
    "student": small,
    "finetune": {"steps": 2, "batch_size": 8, "baseline": False},
    "distill": {"epochs": 1, "batch_size": 16},
    "evaluate": {"protocols": ["few-label"]},
    "compute": {"device": "cpu", "precision": "fp32"},
    "store": str(place / "store"),
})
ran = run_chain(config, "example")
print(ran.path("pretext"))
"""


def as_installed(folder: Path) -> dict[str, str]:
    """The environment of a process that sees the package as installed: its metadata are on the path."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    metadata = folder / f"barlow_twins-{project['version']}.dist-info"
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
    path = [folder, EXAMPLE, ROOT, ROOT / "tests" / "flows"]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path)), "OMP_NUM_THREADS": "1"}


def python(code: str, environment: dict[str, str], *words: str) -> str:
    command = [sys.executable, "-W", "error", "-c", code, *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_chain_runs_a_method_that_a_package_brings(tmp_path: Path) -> None:
    said = python(RUN, as_installed(tmp_path), str(tmp_path))
    checkpoint = Path(said.splitlines()[-1])
    meta = json.loads((checkpoint / "meta.json").read_text())
    assert meta["config"]["pretext"]["method"] == "barlow-twins"
    assert json.loads((checkpoint / "model.json").read_text())["backbone"] == "smallconv"
    (record,) = tmp_path.glob("store/runs/*/run.json")
    assert json.loads(record.read_text())["status"] == "done"


def test_it_is_listed_and_checked_like_our_own(tmp_path: Path) -> None:
    environment = as_installed(tmp_path)
    listed = python("from flows.__main__ import main; main(['list'])", environment)
    assert "barlow-twins        Barlow Twins (Zbontar et al. 2021)" in listed
    code = (
        "import sys\nfrom data.errors import ConfigError\nfrom tasks.config import Config\n"
        "from tasks.overlay import merge, resolve\n"
        "try:\n"
        "    over = {'pretext': {'method': 'barlow-twins', 'redundancy': 2}}\n"
        "    resolve(merge(Config().model_dump(), over))\n"
        "except ConfigError as error:\n    print(error)\nassert 'torch' not in sys.modules"
    )
    assert "pretext.redundancy = 2: input should be less than or equal to 1" in python(code, environment)


def test_it_needs_one_name_of_ours_and_none_of_the_users(tmp_path: Path) -> None:
    environment = as_installed(tmp_path)
    files = [path.read_text() for path in (EXAMPLE / "barlow_twins").glob("*.py")]
    ours = {name for text in files for name in re.findall(r"^(?:from|import) (\w+)", text, re.MULTILINE)}
    assert not ours & {"data", "models", "tasks", "flows"}
    beside = tmp_path / "beside"
    beside.mkdir()
    (beside / "models.py").write_text("raise RuntimeError('the user's models.py was imported')\n")
    code = "import sys; from barlow_twins.config import BarlowTwins; assert 'torch' not in sys.modules"
    for command in (["-c", code], ["-c", "import barlow_twins.method"], ["-m", "knowledge_transfer", "list"]):
        done = subprocess.run(
            [sys.executable, *command], cwd=beside, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    assert "barlow-twins " in done.stdout


def test_a_name_that_is_taken_is_refused(tmp_path: Path) -> None:
    environment = as_installed(tmp_path)
    points = next(tmp_path.glob("*.dist-info")) / "entry_points.txt"
    points.write_text("[knowledge_transfer.pretext]\nsimclr = models.configs.simclr:SimCLR\n")
    with pytest.raises(AssertionError, match="'simclr' is taken"):
        python("from models.configs import PRETEXT", environment)


def test_loss_equals_a_loop_and_lightly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLE)
    from barlow_twins.method import barlow_twins

    lightly = pytest.importorskip("lightly.loss")
    torch.manual_seed(0)
    a = torch.randn(24, 6) * 3 + 1
    b = a + 0.5 * torch.randn(24, 6)
    loss = barlow_twins(a, b, 0.1)
    assert torch.allclose(loss, lightly.BarlowTwinsLoss(lambda_param=0.1)(a, b), rtol=1e-4)

    u, v = ((z - z.mean(0)) / z.std(0, correction=0) for z in (a.double(), b.double()))
    expected = 0.0
    for i in range(6):
        for j in range(6):
            c = float((u[:, i] * v[:, j]).mean())
            expected += (1 - c) ** 2 if i == j else 0.1 * c**2
    assert float(loss) == pytest.approx(expected, rel=1e-4)


def test_loss_of_views_that_agree_and_of_features_that_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLE)
    from barlow_twins.method import barlow_twins

    signs = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])  # orthogonal columns of mean 0
    assert float(barlow_twins(signs, 5 * signs + 2, 1.0)) == pytest.approx(0, abs=1e-6)
    repeated = signs[:, [0, 0, 0]]
    assert float(barlow_twins(repeated, repeated, 0.5)) == pytest.approx(0.5 * 6, rel=1e-4)
