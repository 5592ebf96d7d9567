"""`examples/serve-onnxruntime` and `examples/serve-fastapi`: short, and they answer as `predict` does."""

from __future__ import annotations

import ast
import asyncio
import importlib.util
import io
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import httpx
import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

from data.preprocessing import Preprocessing
from flows.__main__ import main
from models.export.answering import About, Answering
from models.network import build_network

ASK = ROOT / "examples" / "serve-onnxruntime" / "ask.py"
SERVE = ROOT / "examples" / "serve-fastapi" / "serve.py"
CLASSES = ("cat", "dog", "fox", "hare", "owl", "pig")
SIZES = ((40, 30), (73, 73), (31, 90), (200, 201))

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported network with random weights, and photographs: upright, turned by EXIF, grey."""
    from models.export import onnx_file

    place = tmp_path_factory.mktemp("serve")
    network = build_network("smallconv", 64, seed=0, width=0.25, classes=len(CLASSES))
    assert network.classifier is not None
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        for _ in range(8):  # statistics of images, so that answers differ
            network(torch.rand(16, 3, 1, 1).expand(-1, -1, 64, 64) + 0.1 * torch.randn(16, 3, 64, 64))
        torch.nn.init.normal_(network.classifier.weight, std=0.5)
    network.eval()
    described = network.description()
    rule = Preprocessing(64, described["mean"], described["std"], temperature=2.0)
    onnx_file.write(Answering(network, rule), About(CLASSES, rule), place, np.zeros((0,), np.uint8))
    draws = np.random.default_rng(0)
    (place / "photos").mkdir()
    for number, (width, height) in enumerate(SIZES):
        pixels = draws.integers(0, 256, (4, 5, 3)).astype(np.uint8)
        image = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
        turned = Image.Exif()
        turned[0x0112] = 6
        image.save(place / "photos" / f"{number}.jpg", quality=95, exif=turned if number % 2 else b"")
    image.convert("L").save(place / "photos" / "grey.png")
    return place


@pytest.fixture
def expected(folder: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, float]]:
    """Name of each photograph -> probabilities by class, as `predict` gives them."""
    assert main(["predict", str(folder / "model.onnx"), str(folder / "photos"), "--all", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["predictions"]
    assert len(rows) == len(SIZES) + 1
    return {row["uri"]: {name: row[f"p_{name}"] for name in CLASSES} for row in rows}


def lines(path: Path) -> int:
    """The number of lines of code, without docstrings and empty lines."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef) and ast.get_docstring(node):
            node.body.pop(0)
    return sum(bool(line.strip()) for line in ast.unparse(tree).splitlines())


def test_they_are_as_short_as_they_say() -> None:
    for path, most in ((ASK, 15), (SERVE, 30)):
        assert lines(path) <= most
        said = " ".join((path.parent / "README.md").read_text().split())
        assert f"It has {lines(path)} lines of code" in said


def test_the_program_answers_as_predict_does(folder: Path, expected: dict[str, dict[str, float]]) -> None:
    photos = sorted((folder / "photos").iterdir())
    command = [sys.executable, "-I", "-W", "error", str(ASK), str(folder / "model.onnx"), *map(str, photos)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert [row[0] for row in rows] == [str(path) for path in photos]
    for path, name, probability in rows:
        best = expected[Path(path).name]
        assert name == max(best, key=best.__getitem__)
        assert float(probability) == pytest.approx(max(best.values()), abs=1e-4)
    assert len({row[1] for row in rows}) > 1  # else nothing was tested


@pytest.fixture
def service(folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setenv("MODEL", str(folder / "model.onnx"))
    spec = importlib.util.spec_from_file_location("serve", SERVE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_service_answers_as_predict_does_and_refuses_what_is_no_image(
    folder: Path, service: ModuleType, expected: dict[str, dict[str, float]]
) -> None:
    def post(content: bytes, kind: str) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(service.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
                return await client.post("/predict", content=content, headers={"Content-Type": kind})

        return asyncio.run(send())

    for path in (folder / "photos").iterdir():
        said = post(path.read_bytes(), "image/png" if path.suffix == ".png" else "image/jpeg")
        assert said.status_code == 200
        best = sorted(expected[path.name].items(), key=lambda pair: -pair[1])[:5]
        assert list(said.json()) == [name for name, _ in best]
        assert list(said.json().values()) == pytest.approx([p for _, p in best], abs=1e-5)
    whole = io.BytesIO()
    Image.new("RGB", (99, 99)).save(whole, "PNG")
    for bad in (b"no image", whole.getvalue()[:60]):
        said = post(bad, "image/png")
        assert said.status_code == 422
        assert "not an image" in said.json()["detail"]
