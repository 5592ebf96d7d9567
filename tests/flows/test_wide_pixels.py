"""Images of more than 8 bits or of more bands through the whole chain. The scores prove what was read.

The two classes are stripes in two directions. In the 16-bit images they are 0.2 grey levels high if 0 to
65535 becomes 0 to 255, so they vanish. In the images of four bands only the fourth band has them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_process import Made, run_chain
from PIL import Image

from data.reading import recorded_in
from flows.recipes import override
from tasks.config import Config

SIDE = 16
QUICK = {"epochs": 2, "batch_size": 16, "optimizer": "adamw", "learning_rate": 3e-3}
NETWORK = {"backbone": "smallconv", "width": 0.25}


def stripes(across: bool, draws: np.random.Generator) -> np.ndarray[Any, Any]:
    """(SIDE, SIDE) float64 in -1 to 1, of random phase, with noise."""
    position = np.arange(SIDE)[:, None] if across else np.arange(SIDE)[None]
    wave = np.sin(2 * np.pi * position / 6 + draws.uniform(0, 6)) + np.zeros((SIDE, SIDE))
    return 0.8 * wave + draws.uniform(-0.2, 0.2, (SIDE, SIDE))


def write(folder: Path, kind: str, each: int, seed: int) -> None:
    draws = np.random.default_rng(seed)
    for name in ("across", "down"):
        (folder / name).mkdir(parents=True)
        for number in range(each):
            pattern = stripes(name == "across", draws)
            if kind == "grey":
                Image.fromarray((2056 + 60 * pattern).astype(np.uint16)).save(folder / name / f"{number}.png")
            else:
                values = draws.integers(100, 130, (SIDE, SIDE, 4))
                values[..., 3] = 128 + 100 * pattern
                image = Image.fromarray(values.astype(np.uint8), "RGBX")
                image.save(folder / name / f"{number}.tif")


def config(place: Path, until: str = "distill", **data: Any) -> Config:
    values: dict[str, Any] = {
        "data": {
            "train": f"folder:{place / 'train'}",
            "test": f"folder:{place / 'test'}",
            "image_size": SIDE,
            "labels_per_class": 6,
            **data,
        },
        "pretext": {"method": "hog"},
        "cluster": {"k": 4},
        "transfer": {"method": "pseudo-labels", **QUICK},
        "student": NETWORK,
        "finetune": {"steps": 6, "batch_size": 12},
        "distill": QUICK,
        "evaluate": {"knn_neighbours": [5], "protocols": ["knn", "few-label"]},
        "until": until,
        "compute": {"device": "cpu", "precision": "fp32"},
        "store": str(place / "store"),
    }
    return override(Config(), values)


def scores(ran: Made) -> dict[str, float]:
    """Accuracies: of features by their neighbours, and of the final student, which had few labels.

    Stripes of the same phase are rightly taken for twins, so that some of these runs are also scored without
    them. These scores are left out.
    """
    return {
        f"{row['evaluation']} {row['model']}": row["value"]
        for row in ran.result["scores"]
        if row["metric"] == "top1"
        and row["model"] in ("teacher", "student")
        and row["evaluation"] != "without-leaks"
    }


BANDS = {"infrared": "4,1,2", "two": "1,4", "four": "1,2,3,4"}
SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("grey", "two", "four")]


@pytest.fixture(scope="module", params=["infrared", *SLOW])
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Made, Made]:
    """The kind of images, a run that reads what tells the classes apart, and one that does not."""
    place, kind = tmp_path_factory.mktemp("wide"), request.param
    write(place / "train", kind, 40, 0)
    write(place / "test", kind, 40, 1)
    if kind == "grey":
        seen, blind = {}, {"value_range": [0, 65535]}
    else:
        seen, blind = {"bands": BANDS[kind]}, {"bands": "1,2,3"}
    right = config(place, **seen)
    if kind == "four":  # a network as teacher too, so that views of four bands are made
        right = override(right, {"pretext": {"method": "simclr", **NETWORK, **QUICK}})
    ran = run_chain(right, "seen")
    return kind, ran, run_chain(config(place, until="pretext", **blind), "blind")


def test_the_scores_prove_what_was_read(runs: tuple[str, Made, Made]) -> None:
    _, seen, blind = runs
    assert scores(seen).keys() == {"knn teacher", "knn student", "few-label student"}
    assert min(scores(seen).values()) > 0.85
    assert scores(blind)["knn teacher"] < 0.7  # chance is 0.5 +- 0.06 of 80 images


def test_manifest_and_models_record_how_to_read(runs: tuple[str, Made, Made]) -> None:
    kind, seen, blind = runs
    manifest = seen.store.meta(seen.made["manifest"])
    reading = recorded_in(manifest)
    if kind == "grey":
        assert reading.value_range is not None
        assert 1990 < reading.value_range[0] < 2010
        assert 2100 < reading.value_range[1] < 2130
        assert any("less than a tenth of their range" in note for note in manifest["notes"])
    else:
        assert reading.bands == tuple(map(int, BANDS[kind].split(",")))
    for label in ("pretext",) if kind == "four" else ():
        assert json.loads((seen.path(label) / "model.json").read_text())["input"] == "bands"
    for label in ("transfer", "distill"):
        described = json.loads((seen.path(label) / "model.json").read_text())
        assert recorded_in(described) == reading
        assert len(described["mean"]) == reading.channels
    assert seen.made["embed"] != blind.made["embed"]


@pytest.mark.slow
def test_a_pinned_rerun_keeps_the_scale_and_an_unpinned_one_chooses_it_again(tmp_path: Path) -> None:
    write(tmp_path / "train", "grey", 40, 0)
    write(tmp_path / "test", "grey", 10, 1)
    pinned = override(config(tmp_path, until="transfer"), {"pin": {"enabled": True, "far": 1, "shift": 10}})
    first = run_chain(pinned, "first")
    scale = first.store.meta(first.made["manifest"])["value_range"]
    bright = np.full((SIDE, SIDE), 60_000, np.uint16)
    Image.fromarray(bright).save(tmp_path / "train/across/new.png")

    grown = run_chain(pinned, "grown")
    assert grown.result["pinned"]
    assert grown.made["transfer"] == first.made["transfer"]
    kept = grown.store.meta(grown.made["manifest"])
    assert kept["value_range"] == scale
    assert kept["clipped"]["images"] > 0
    assert grown.store.meta(grown.made["embed"])["rows_computed"] == 1

    retrained = run_chain(override(pinned, {"pin": {"growth": 0}}), "retrained")
    assert not retrained.result["pinned"]
    assert retrained.made["transfer"] != first.made["transfer"]
    assert retrained.store.meta(retrained.made["manifest"])["value_range"][1] == 60_000
    assert retrained.store.meta(retrained.made["embed"])["rows_computed"] == 81
