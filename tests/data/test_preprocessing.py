"""Pre-processing: what the guide says, what evaluation does, and what a model.json records."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

from data.errors import ArtifactError
from data.images import open_images
from data.manifest import make_manifest
from data.preprocessing import Preprocessing, first_of_centre
from data.reading import Reading
from models.augment import centre
from models.network import MEAN, STD, build_network

GUIDE = ROOT / "docs" / "preprocessing.md"


def jpeg(width: int, height: int, turned: int | None = None) -> bytes:
    pixels = np.random.default_rng(width).integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), np.uint8)
    image = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    if turned is not None:
        exif[0x0112] = turned
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90, exif=exif)
    return file.getvalue()


@pytest.fixture(scope="module")
def guide() -> Any:
    (block,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    scope: dict[str, Any] = {}
    exec(block, scope)
    return scope["prepared"]


@pytest.mark.parametrize("size", [8, 32, 63, 64, 65, 96, 112])
@pytest.mark.parametrize(("width", "height", "turned"), [(97, 64, None), (64, 128, 6), (33, 32, None)])
def test_the_guide_gives_what_networks_see(
    guide: Any, size: int, width: int, height: int, turned: int | None
) -> None:
    file = jpeg(width, height, turned)
    rule = Preprocessing(size, MEAN, STD)
    square = rule.square(file)
    assert square.shape == (rule.stored, rule.stored, 3)
    crop = rule.crop(square[None])
    theirs = guide(io.BytesIO(file), size, MEAN, STD)
    np.testing.assert_allclose(rule.normalised(crop), theirs, rtol=0, atol=1e-6)
    # What evaluation does: the central view in [0, 1], and the network's own normalisation.
    network = build_network("smallconv", size, seed=0, width=0.25) if size >= 32 else None
    seen = centre(torch.from_numpy(np.stack([square])), size)
    if network is not None:
        seen = network._seen(seen)
        np.testing.assert_allclose(seen.numpy(), theirs, rtol=0, atol=2e-6)
    else:
        assert (seen.numpy().transpose(0, 2, 3, 1) * 255).round().astype(np.uint8).tolist() == crop.tolist()


def test_evaluation_reads_the_same_squares(tmp_path: Path) -> None:
    for number, (width, height) in enumerate([(70, 50), (50, 70), (74, 74), (200, 90)]):
        path = tmp_path / "photos" / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(jpeg(width, height))
    source = f"folder:{tmp_path / 'photos'}"
    rule = Preprocessing(65, MEAN, STD)
    made = make_manifest(source, None, None, seed=0, max_rejected=0.0, hold_out=False)
    opened = open_images(made.images, {"train": source}, rule.stored, cache=tmp_path / "cache")
    read = opened.read(np.arange(4))
    uris = made.images["uri"].to_pylist()
    own = np.stack([rule.square((tmp_path / "photos" / uri).read_bytes()) for uri in uris])
    assert read.tolist() == own.tolist()


def test_the_crop_is_central() -> None:
    assert [first_of_centre(side, 10) for side in (10, 12, 14, 11, 13)] == [0, 1, 2, 0, 2]
    rule = Preprocessing(224, MEAN, STD)
    assert rule.stored == 256
    assert rule.crop(np.zeros((2, 256, 256, 3), np.uint8)).shape == (2, 224, 224, 3)


def test_model_json_has_all_of_it() -> None:
    described = {"image_size": 96, "mean": [0.5] * 4, "std": [0.25] * 4, "input": "bands"}
    told = {"bands": [4, 1, 2, 3], "value_range": [0, 4095], "temperature": 1.5}
    rule = Preprocessing.of(described | told)
    assert rule == Preprocessing(
        96, (0.5,) * 4, (0.25,) * 4, "bands", 1.5, Reading((0.0, 4095.0), (4, 1, 2, 3))
    )
    words = " ".join(rule.words())
    for number in ("4, 1, 2, 3", "0 to 4095", "110 x 110", "96 rows and columns from number 7", "/ 1.5"):
        assert number in words
    assert Preprocessing.of(described).temperature == 1.0


@pytest.mark.parametrize("gone", ["image_size", "mean", "std"])
def test_a_model_json_without_a_key_is_refused(gone: str) -> None:
    described = {"image_size": 96, "mean": MEAN, "std": STD}
    del described[gone]
    with pytest.raises(ArtifactError, match=gone):
        Preprocessing.of(described)
