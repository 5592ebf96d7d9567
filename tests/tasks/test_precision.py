"""One checkpoint gives the same neighbours and answers, whatever precision its run had."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from data.checkpoints import write_checkpoint
from data.store import Store
from data.tables import read_vectors
from data.types import Artifact
from models.backbones import BACKBONES
from models.network import build_network
from models.opened import open_model
from tasks.config import Compute, Config
from tasks.job import run
from tasks.overlay import resolve
from tasks.stage import Request
from tasks.stages import adopt, embed, manifest

IMAGES, SIZE = 100, 16
WIDTH = {"vit_tiny": 1 / 3, "vit_small": 1 / 6}
LARGE = {"resnet50_sk", "resnet101", "resnet101_sk", "resnet152", "resnet152_sk", "vit_small"}
NAMES = [pytest.param(name, marks=[pytest.mark.slow] if name in LARGE else []) for name in BACKBONES]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of handwritten digits."""
    from sklearn.datasets import load_digits

    folder = tmp_path_factory.mktemp("digits")
    for number, pixels in enumerate(load_digits().images[:IMAGES]):
        square = Image.fromarray((pixels * 15.9).astype(np.uint8)).resize((SIZE, SIZE))
        square.save(folder / f"{number:03}.png")
    return folder


def build(store: Store, request: Request) -> Artifact:
    return run(request, store, Compute(device="cpu"), lambda event: None, lambda: False, {})[0]


def checkpoint(name: str, folder: Path) -> None:
    """Write a network with its initial weights, and with batch statistics of random images.

    Training would add nothing: it takes the network away from these weights, but not the rounding.
    """
    network = build_network(name, SIZE, seed=1, width=WIDTH.get(name, 0.25))
    network.train()(torch.rand(16, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)))
    folder.mkdir()
    arrays = {key: tensor.detach().numpy() for key, tensor in network.state_dict().items()}
    write_checkpoint(folder, arrays, network.description(), [])


def nearest(x: NDArray[np.float32]) -> NDArray[np.int64]:
    """The most similar other image of each, by cosine."""
    unit = x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -2)
    found: NDArray[np.int64] = cosine.argmax(axis=1)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_an_image_has_the_same_nearest_neighbour_in_fp32_and_in_bf16(
    name: str, place: Path, tmp_path: Path
) -> None:
    store, found = Store(tmp_path / "store"), {}
    checkpoint(name, tmp_path / "network")
    adopted = build(store, adopt.plan(tmp_path / "network"))
    for precision in ("fp32", "bf16"):
        config: Config = resolve(
            {
                "data": {"train": f"folder:{place}", "test": f"folder:{place}", "image_size": SIZE},
                "compute": {"precision": precision, "device": "cpu"},
            }
        )
        images = build(store, manifest.plan(config))
        made = build(store, embed.plan(config, images, adopted, part="train", layer="features"))
        assert store.meta(made)["rows_computed"] == IMAGES  # no row is taken over from the other one
        assert store.meta(made)["precision"] == "fp32"
        found[precision] = read_vectors(store.folder(made))[1]
    assert found["fp32"].std(axis=0).max() > 0
    same = nearest(found["fp32"]) == nearest(found["bf16"])
    assert same.mean() >= 0.99


def test_predict_answers_in_float32_after_a_run_in_bf16(tmp_path: Path) -> None:
    network = build_network("smallconv", SIZE, seed=1, classes=4).eval()
    arrays = {key: tensor.detach().numpy() for key, tensor in network.state_dict().items()}
    write_checkpoint(tmp_path, arrays, network.description(), [])
    (tmp_path / "meta.json").write_text(json.dumps({"config": {"precision": "bf16"}}))
    pixels = np.random.default_rng(0).integers(0, 256, (8, SIZE, SIZE, 3), np.uint8)
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = network(x).float().numpy()
    with torch.inference_mode():
        features, logits = (each.numpy() for each in network.answer(x))
    bound = 1e-5 * float(np.abs(logits).max())
    assert np.abs(rounded - logits).max() > 10 * bound  # so the comparison below can fail
    model = open_model(tmp_path, "cpu")
    both = model.outputs(pixels, features=True)
    np.testing.assert_allclose(model.logits(pixels), logits, rtol=0, atol=bound)
    np.testing.assert_allclose(both.logits, logits, rtol=0, atol=bound)
    np.testing.assert_allclose(both.features, features, rtol=0, atol=1e-5 * float(np.abs(features).max()))
