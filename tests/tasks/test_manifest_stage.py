"""The manifest takes scale and bands from another manifest or from a model, if it is told to."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.store import Store
from data.types import Artifact
from flows.recipes import override
from tasks.config import Compute, Config
from tasks.job import run
from tasks.stage import Request
from tasks.stages import manifest


def write(folder: Path, greatest: int) -> str:
    for number in range(4):
        place = folder / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        values = np.linspace(0, greatest, 64).astype(np.uint16).reshape(8, 8) + np.uint16(number)
        Image.fromarray(values).save(place / f"{number}.png")
    return f"folder:{folder}"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def made(store: Store, request: Request) -> tuple[Artifact, dict[str, Any]]:
    artifact, _ = run(request, store, Compute(), lambda event: None, lambda: False, {})
    return artifact, store.meta(artifact)


def test_a_scale_is_chosen_given_or_taken_from_elsewhere(store: Store, tmp_path: Path) -> None:
    dark, light = write(tmp_path / "dark", 1000), write(tmp_path / "light", 9000)
    data = {"train": dark, "test": dark}
    config = override(Config(), {"data": data})
    first, meta = made(store, manifest.plan(config))
    own = meta["value_range"]
    assert own[1] < 1100
    assert any("less than a tenth" in note for note in meta["notes"])

    _, elsewhere = made(store, manifest.plan(config, only=light))
    assert elsewhere["value_range"][1] > 8000
    _, like = made(store, manifest.plan(config, only=light, like=first))
    assert like["value_range"] == own
    assert like["clipped"]["share"] > 0.8
    assert like["parts"] != elsewhere["parts"]

    given, meta = made(store, manifest.plan(override(config, {"data": {"value_range": own}})))
    assert given == first  # it is named by its content, however the scale came about

    def checkpoint(**more: object) -> Artifact:
        found = Artifact(kind="checkpoint", fingerprint=str(len(more)) * 32)
        with store.draft(found, interrupted=lambda: False, waiting=lambda: None) as draft:
            (draft / "out").mkdir(exist_ok=True)
            (draft / "out" / "model.json").write_text(json.dumps({"backbone": "smallconv", **more}))
            store.publish(found, draft, {})
        return found

    _, meta = made(store, manifest.plan(config, like=checkpoint(value_range=[0, 500], bands=[1])))
    assert (meta["value_range"], meta["bands"]) == ([0, 500], [1])
    assert made(store, manifest.plan(config, like=checkpoint()))[0] == first


def test_what_was_refused_for_its_size_is_looked_at_again_under_another_limit(
    store: Store, tmp_path: Path
) -> None:
    dark = write(tmp_path / "dark", 1000)
    Image.new("L", (20, 20)).save(tmp_path / "dark/a/large.png")
    data = {"train": dark, "test": dark, "max_rejected": 1.0}
    counts = [
        made(store, manifest.plan(override(Config(), {"data": {**data, **limit}})))[1]["counts"]["rejected"]
        for limit in ({"max_pixels": 64}, {}, {"max_pixels": 64})
    ]
    assert counts == [2, 0, 2]
