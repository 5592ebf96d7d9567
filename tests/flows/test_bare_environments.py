"""Exported files in environments with the packages that they need, and no others. ONNX is in test_export."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import bare
import numpy as np
import pytest
import torch
from in_process import OfARun
from tiny_digits import TinyDigits, tiny_digits

import flows.export
from models.opened import open_model
from tasks.card import loading, squares

pytestmark = pytest.mark.slow

READ = """
from pathlib import Path
paths = sorted(Path("../photos").iterdir())
"""
SAVE = """
np.save("../answers.npy", np.asarray(probabilities))
"""


def exported(ran: TinyDigits, formats: list[str], folder: Path) -> dict[str, Any]:
    """Export a run to `folder / "model"` -> its card."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flows.export, "Workers", OfARun)
        flows.export.export_run(ran.run, str(folder / "model"), formats)
    card: dict[str, Any] = json.loads((folder / "model" / "card.json").read_text())
    return card


def run_of(folder: Path, changes: Mapping[str, Any]) -> TinyDigits:
    (folder / "run").mkdir()
    return tiny_digits(folder / "run", changes)


def test_pt2_needs_torch_alone(tiny: TinyDigits, tmp_path: Path) -> None:
    exported(tiny, ["pt2"], tmp_path)
    rule = open_model(tiny.ran.path("ship")).rule
    pixels = np.stack([rule.square(path.read_bytes()) for path in bare.photos(tmp_path / "photos")])
    torch.save(torch.from_numpy(pixels), tmp_path / "images.pt")
    python = bare.interpreter(tmp_path, "torch")
    assert not {"numpy", "pillow", "torchvision", "safetensors"} & bare.packages_of(python)
    code = """
import torch
images = torch.load("../images.pt")
network = torch.export.load("model.pt2").module()
probabilities, features = network(images)
torch.save(probabilities, "../answers.pt")
"""
    bare.run(python, "-c", code, place=tmp_path / "model")
    found = torch.load(tmp_path / "answers.pt").numpy()
    bare.same(found, bare.predicted(tiny.run, tmp_path / "photos", tmp_path / "answers.parquet"))


@pytest.mark.parametrize(
    ("library", "packages", "absent", "changes"),
    [
        ("reader", ("torch", "numpy", "pillow", "safetensors"), {"torchvision", "timm"}, None),
        (
            "torchvision",
            ("torchvision", "safetensors"),
            {"timm"},
            {"student.backbone": "mobilenet_v3", "student.width": 1.0, "data.image_size": 64},
        ),
        (
            "timm",
            ("timm",),
            set(),
            {"student.backbone": "timm:resnet10t", "student.width": 1.0, "data.image_size": 32},
        ),
    ],
)
def test_weights_need_only_the_library_of_the_network(
    library: str,
    packages: tuple[str, ...],
    absent: set[str],
    changes: Mapping[str, Any] | None,
    tiny: TinyDigits,
    tmp_path: Path,
) -> None:
    ran = tiny if changes is None else run_of(tmp_path, changes)
    card = exported(ran, ["safetensors"], tmp_path)
    assert card["formats"]["safetensors"]["library"] == library
    bare.photos(tmp_path / "photos")
    python = bare.interpreter(tmp_path, *packages)
    assert not {"knowledge-transfer", "onnxruntime", *absent} & bare.packages_of(python)
    code = READ + squares(card) + "\n" + loading(card)["safetensors"] + SAVE
    bare.run(python, "-c", code, place=tmp_path / "model")
    expected = bare.predicted(ran.run, tmp_path / "photos", tmp_path / "answers.parquet")
    bare.same(np.load(tmp_path / "answers.npy"), expected)
