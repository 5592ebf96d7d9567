"""The card of an export: its blocks that load weights run as they stand, and it names the teacher."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from data.preprocessing import Preprocessing
from models.augment import centre
from models.export import FORMATS
from models.export.answering import About, Answering
from models.network import Network, build_network
from tasks.card import loading
from tasks.stages.export import _origin

CLASSES = tuple("abcdefghij")
TEMPERATURE = 1.5


def exported(name: str, backbone: str, size: int, width: float, folder: Path) -> tuple[Network, str]:
    """A network with random weights, and the card's block for one format of it."""
    network = build_network(backbone, size, seed=0, width=width, classes=len(CLASSES)).eval()
    described = network.description()
    rule = Preprocessing(size, described["mean"], described["std"], described["input"], TEMPERATURE)
    about = About(CLASSES, rule)
    module = importlib.import_module(FORMATS[name].module)
    told = module.write(Answering(network, rule), about, folder, np.zeros((0,), np.uint8))
    row: dict[str, Any] = {"file": FORMATS[name].file, "refused": None, **told}
    return network, loading(about.as_json() | {"formats": {name: row}})[name]


@pytest.mark.parametrize(
    ("name", "backbone", "size", "width", "library"),
    [
        ("safetensors", "mobilenet_v3", 64, 1.0, "torchvision"),
        ("safetensors", "timm:resnet10t", 32, 1.0, "timm"),
        ("safetensors", "smallconv", 17, 0.25, "weights.reader"),
        ("bits", "reactnet", 16, 0.25, "bits.reader"),
    ],
)
def test_the_block_answers_as_the_network(
    name: str, backbone: str, size: int, width: float, library: str, tmp_path: Path
) -> None:
    if library == "timm":
        pytest.importorskip("timm")
    network, block = exported(name, backbone, size, width, tmp_path)
    assert library in block
    side = size if size < 64 else round(size * 8 / 7)
    images = np.random.default_rng(0).integers(0, 256, (17, side, side, 3)).astype(np.uint8)
    np.save(tmp_path / "images.npy", images)
    start = "import json, numpy as np\nimages = np.load('images.npy')\n"
    start += "" if library == "bits.reader" else "import torch\ntorch.set_grad_enabled(False)\n"
    end = "\nprint(json.dumps(np.asarray(probabilities).tolist()))"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-W", "ignore", "-c", start + block + end]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        logits = network(centre(torch.from_numpy(images), size)).double()
    truth = torch.softmax(logits / TEMPERATURE, 1).numpy()
    same = np.abs(np.array(json.loads(done.stdout)) - truth).max(axis=1) < 1e-4
    # In a 1-bit network, rounding may turn over a sign that is almost 0, and so change a few answers.
    assert same.mean() > 0.8 if name == "bits" else same.all()


META: dict[str, dict[str, Any]] = {
    "pretext": {"sha256": {"model.safetensors": "abc"}},
    "pretrained": {"weights": {"name": "dinov3", "sha256": "def", "licence": "MIT"}, "sha256": {}},
    "pretrained without licence": {"weights": {"name": "mine", "sha256": "def", "licence": None}},
    "external": {"files": ["123", "456"]},
    "embed": {"config": {"layer": "hog"}},
    "transfer": {},
}


@pytest.mark.parametrize(
    ("stages", "source", "sha256", "licence"),
    [
        (
            ["pretext", "embed", "transfer"],
            "from random weights (simclr, resnet18)",
            ["abc"],
            "no weights of",
        ),
        (["pretrained", "embed", "transfer"], "dinov3", ["def"], "MIT"),
        (["pretrained without licence", "transfer"], "mine", ["def"], "unknown: ask"),
        (["external", "transfer"], "files that the user gave", ["123", "456"], "unknown: ask"),
        (["embed", "transfer"], "the formula hog, without weights", [], "none is needed"),
        (["transfer"], "trained on the labels alone", [], "none is needed"),
    ],
)
def test_the_teacher_s_source_hash_and_licence(
    stages: list[str], source: str, sha256: list[str], licence: str
) -> None:
    store = SimpleNamespace(meta=lambda artifact: META[artifact.fingerprint])
    job: Any = SimpleNamespace(store=store, settings={})
    about = {"method": "simclr", "backbone": "resnet18"}
    chain = [{"stage": name.split()[0], "kind": "any", "fingerprint": name, **about} for name in stages]
    found = _origin(job, chain)
    assert source in found["source"]
    assert found["sha256"] == sha256
    assert licence in found["licence"]
