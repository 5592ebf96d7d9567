"""Test labels are read only at the end.

If the two classes of the test images are swapped, everything that is trained has the same bytes.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from in_process import Made, photographs, run_chain
from PIL import Image

from flows.recipes import override
from tasks.config import Config

QUICK = {
    "backbone": "smallconv",
    "width": 0.25,
    "epochs": 1,
    "batch_size": 32,
    "optimizer": "adamw",
    "learning_rate": 1e-3,
}


def config(place: Path, test: str) -> Config:
    """A chain with every evaluation that uses the run's own images."""
    values: dict[str, Any] = {
        "data": {
            "train": f"parquet:{place / 'train'}",
            "test": f"parquet:{place / test}",
            "image_size": 32,
            "labels_per_class": 8,
        },
        "pretext": {"method": "simclr", **QUICK},
        "cluster": {"k": 6},
        "transfer": {name: value for name, value in QUICK.items() if name not in ("backbone", "width")},
        "student": {"backbone": "smallconv", "width": 0.25},
        "finetune": {"steps": 3, "batch_size": 10},
        "predict": {"neighbours": 5},
        "distill": {"epochs": 1, "batch_size": 32},
        "evaluate": {
            "protocols": [
                "knn",
                "linear",
                "few-label",
                "clusters",
                "layers",
                "nonlinear",
                "label-efficiency",
                "stability",
            ],
            "knn_neighbours": [1, 5],
            "layer_epochs": 1,
            "nonlinear": {"epochs": 1, "batch_size": 32, "hidden": 8},
            "label_fractions": [0.2],
            "labels_per_class": [3],
            "label_draws": 1,
            "stability_seeds": 2,
        },
        "compute": {"device": "cpu", "precision": "fp32"},
        "store": str(place / f"store-{test}"),
    }
    return override(Config(), values)


def write(folder: Path, paths: list[Path], labels: list[int]) -> None:
    folder.mkdir()
    images = []
    for path in paths:
        content = io.BytesIO()
        Image.open(path).save(content, "PNG")
        images.append({"bytes": content.getvalue(), "path": path.name})
    pq.write_table(pa.table({"image": images, "label": labels}), folder / "part.parquet")


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> tuple[Made, Made]:
    place = tmp_path_factory.mktemp("unseen")
    photographs(place / "photographs", each=60)
    paths = sorted((place / "photographs").rglob("*.png"))
    labels = [int(path.parent.name == "temple") for path in paths]
    train, test = [i for i in range(120) if i % 3], [i for i in range(120) if not i % 3]
    write(place / "train", [paths[i] for i in train], [labels[i] for i in train])
    write(place / "test", [paths[i] for i in test], [labels[i] for i in test])
    write(place / "swapped", [paths[i] for i in test], [1 - labels[i] for i in test])
    right, swapped = (run_chain(config(place, name), name) for name in ("test", "swapped"))
    return right, swapped


def contents(made: Made, label: str) -> dict[str, str]:
    """SHA-256 of each file of a stage's artifact, except its meta.json."""
    folder = made.path(label)
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "meta.json"]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_all_that_is_made_before_the_evaluations_is_the_same(twice: tuple[Made, Made]) -> None:
    right, swapped = twice
    assert list(right.made) == list(swapped.made)
    others = {label for label in right.made if contents(right, label) != contents(swapped, label)}
    assert {label.split("-")[0] for label in others} == {
        "manifest",
        "evaluate",
        "answers",
        "layers",
        "nonlinear",
        "scores",
        "report",
    }


def test_who_was_right_is_wrong_and_nothing_else_has_changed(twice: tuple[Made, Made]) -> None:
    names = ("evaluation", "model", "setting", "metric", "seed")
    right, swapped = (
        {tuple(row[name] for name in names): row["value"] for row in made.result["scores"]} for made in twice
    )
    assert right.keys() == swapped.keys()
    evaluations = {key[0] for key in right}
    assert evaluations >= {
        "knn",
        "linear",
        "few-label",
        "clusters",
        "health",
        "layers",
        "nonlinear",
        "label-efficiency",
    }
    followed = {"top1", "balanced_accuracy", "selective_accuracy", "mean_confidence"}
    for key, value in right.items():
        if key[0] == "shipped" and key[3] not in followed:
            continue  # by class, or not a function of the accuracy
        accuracy = key[3].startswith("top1") or key[3] in ("balanced_accuracy", "selective_accuracy")
        assert swapped[key] == (pytest.approx(1 - value) if accuracy else value), key
