"""Foreign weights in the store are named by architecture, tensors and preparation, not by their place."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_weights import timm_folder

from data.errors import ConfigError
from data.schemas import MANIFEST
from data.store import Store
from data.tables import write_table
from data.types import Artifact
from models.configs.pretrained import Pretrained
from models.saved import load
from tasks.config import Compute, Config, Data, Embed
from tasks.feasible import refuse_weights
from tasks.job import run
from tasks.recall import Recall
from tasks.stage import Request
from tasks.stages import embed
from tasks.stages.pretrained import plan


def images(store: Store, name: str, train: str = "a", **more: Any) -> Artifact:
    """A manifest of one training image. `train` gives its content hash."""
    made = Artifact(kind="manifest", fingerprint=name)
    with store.draft(made, interrupted=lambda: False, waiting=lambda: None) as draft:
        columns = {
            "index": [0],
            "uri": ["a.png"],
            "sha256": [train],
            "split": ["train"],
            "label": [None],
            "width": [8],
            "height": [8],
        }
        write_table(draft / "out" / "images.parquet", columns, MANIFEST)
        counts = {"train": 1, "unlabelled": 0, "test": 0}
        parts = {"train": train, "unlabelled": "", "test": "t"}
        store.publish(made, draft, {"parts": parts, "counts": counts, "classes": None, **more})
    return made


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def request(place: Path, manifest: Artifact, layer: str = "features", **more: Any) -> Request:
    config = Config(pretext=Pretrained(weights=str(place), **more), embed=Embed(layer=layer))
    return plan(config, manifest)


def build(store: Store, asked: Request, said: list[str] | None = None) -> tuple[Artifact, bool]:
    def tell(event: dict[str, Any]) -> None:
        if said is not None:
            said.append(event.get("text", ""))

    return run(asked, store, Compute(), tell, lambda: False, {})


def test_named_by_tensors_not_by_place_form_or_images(store: Store, tmp_path: Path) -> None:
    network = timm_folder(tmp_path / "here", "test_resnet")
    said: list[str] = []
    made, cached = build(store, request(tmp_path / "here", images(store, "m")), said)
    assert not cached
    assert any("left out the classifier: fc.bias, fc.weight" in line for line in said)
    assert any("licence" in line for line in said)
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    more = images(store, "n", train="b")
    assert build(store, request(tmp_path / "there", more)) == (made, True)
    torch.save(network.state_dict(), tmp_path / "alone.pth")
    given = json.loads((tmp_path / "here" / "config.json").read_text())["pretrained_cfg"]
    same = {"backbone": "timm:test_resnet", "input_size": given["input_size"][1]}
    assert build(store, request(tmp_path / "alone.pth", more, **same)) == (made, True)
    other, _ = build(store, request(tmp_path / "here", more, mean=[0.1, 0.2, 0.3]))
    assert other != made
    timm_folder(tmp_path / "here", "test_resnet", seed=1)
    assert build(store, request(tmp_path / "here", more))[0] not in (made, other)


def test_an_ordinary_checkpoint_comes_out(store: Store, tmp_path: Path) -> None:
    timm_folder(tmp_path / "w", "test_resnet")
    made, _ = build(store, request(tmp_path / "w", images(store, "m"), input_size=40, licence="MIT"))
    network = load(store.whole(made))
    assert network.image_size == 40
    assert network.own_input
    meta = store.meta(made)
    assert meta["stage"] == "pretrained"
    assert meta["rows"] == sum(p.numel() for p in network.parameters())
    weights = meta["weights"]
    assert weights["licence"] == "MIT"
    assert len(weights["sha256"]) == 64
    assert weights["left_out"] == ["fc.bias", "fc.weight"]
    described = json.loads((store.folder(made) / "model.json").read_text())
    assert described["image_size"] == 40
    assert described["backbone"].startswith("timm:test_resnet?")
    assert (store.folder(made) / "log.parquet").exists()


def test_an_unchanged_file_is_not_read_again(store: Store, tmp_path: Path) -> None:
    timm_folder(tmp_path / "w", "test_resnet")
    asked = request(tmp_path / "w", images(store, "m"))
    recall = Recall(store, asked)
    made, _ = build(store, asked)
    recall.keep(made)
    assert Recall(store, asked).made() == made
    timm_folder(tmp_path / "w", "test_resnet", seed=2)
    assert Recall(store, asked).made() is None


def test_refusals_come_before_any_work(store: Store, tmp_path: Path) -> None:
    manifest = images(store, "m")
    timm_folder(tmp_path / "w", "test_resnet")
    with pytest.raises(ConfigError, match=r"embed.layer = conv9: .* has no such layer"):
        build(store, request(tmp_path / "w", manifest, layer="conv9"))
    with pytest.raises(ConfigError, match="5 bands"):
        build(store, request(tmp_path / "w", images(store, "wide", channels=5)))
    assert not list((store.root / "artifacts").glob("checkpoint/*"))
    with pytest.raises(ConfigError, match="no such file"):
        refuse_weights(Config(pretext=Pretrained(weights=str(tmp_path / "gone"))))
    refuse_weights(Config())


def test_the_size_of_the_run_is_no_part_of_a_foreign_teachers_features() -> None:
    manifest, checkpoint = (Artifact(kind=kind, fingerprint="f") for kind in ("manifest", "checkpoint"))

    def settings(size: int, own: bool) -> dict[str, Any]:
        config = Config(data=Data(image_size=size))
        asked = embed.plan(config, manifest, checkpoint, part="train", layer="features", own_input=own)
        return asked.settings

    assert settings(32, True) == settings(64, True)
    assert settings(32, False) != settings(64, False)
    assert settings(32, False)["image_size"] == 32
