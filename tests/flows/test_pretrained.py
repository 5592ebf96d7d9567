"""Whole chains that start from foreign weights: everything after the teacher works as with our own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign_weights import seen, timm_folder
from in_process import run_chain
from PIL import Image

from data.errors import ConfigError
from data.tables import read_vectors
from flows.estimate import estimate
from flows.recipes import override
from models.saved import load
from tasks.config import Config


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of pictures that are not square, and a ViT of 56 px with random weights."""
    folder = tmp_path_factory.mktemp("foreign")
    rng = np.random.default_rng(0)
    for number in range(60):
        name = ("plain", "striped")[number % 2]
        pixels = np.full((70, 90, 3), rng.integers(0, 256, 3), np.uint8)
        if number % 2:
            pixels[:, ::8] = 255 - pixels[:, ::8]
        pixels[: 10 + number // 2] //= 2
        path = folder / "photographs" / name / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    options = {"depth": 2, "embed_dim": 48, "num_heads": 3, "img_size": 56}
    timm_folder(folder / "vit", "vit_small_patch14_dinov2", **options)
    return folder


def small(place: Path, **over: Any) -> Config:
    values: dict[str, Any] = {
        "data": {"train": f"folder:{place / 'photographs'}", "image_size": 32, "labels_per_class": 5},
        "pretext": {"method": "pretrained", "weights": str(place / "vit"), "licence": "Apache-2.0"},
        "cluster": {"k": 4},
        "transfer": {"method": "pseudo-labels", "epochs": 1, "batch_size": 16},
        "student": {"backbone": "smallconv", "width": 0.25},
        "finetune": {"steps": 2, "batch_size": 10, "baseline": False},
        "predict": {"neighbours": 5, "student": True},
        "distill": {"epochs": 1, "batch_size": 16},
        "evaluate": {
            "knn_neighbours": [5],
            "protocols": ["knn", "linear", "few-label", "clusters", "layers"],
        },
        "compute": {"device": "cpu", "precision": "fp32"},
        "store": str(place / "store"),
    }
    for section, keys in over.items():
        values[section] = values.get(section, {}) | keys if isinstance(keys, dict) else keys
    return override(Config(), values)


def test_the_whole_chain(place: Path) -> None:
    config = small(place)
    ran = run_chain(config, "pretrained")
    assert not ran.result["not_needed"]
    teacher = load(ran.path("pretext"))
    assert teacher.image_size == 56
    # The features are those of the teacher at its own size, from the files as they are.
    index, vectors = read_vectors(ran.path("embed"))
    manifest = ran.store.meta(ran.made["manifest"])
    assert len(index) == manifest["counts"]["train"]
    import pyarrow.parquet as pq

    rows = pq.read_table(ran.path("manifest") / "images.parquet").to_pylist()
    files = [(place / "photographs" / rows[i]["uri"]).read_bytes() for i in index[:8].tolist()]
    expected = seen(teacher, files)
    np.testing.assert_allclose(vectors[:8], expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    # The student has the run's size, the fine-tuned teacher its own.
    assert load(ran.path("distill")).image_size == 32
    assert load(ran.path("finetune-teacher")).image_size == 56
    assert load(ran.path("finetune-teacher")).rule.fit == "shorter"
    scores = {(row["model"], row["evaluation"]) for row in ran.result["scores"]}
    assert {("teacher", "knn"), ("teacher", "linear"), ("teacher-finetuned", "few-label")} <= scores
    report = (ran.folder / "report.html").read_text()
    weights = ran.store.meta(ran.made["pretext"])["weights"]
    assert weights["sha256"] in report
    assert "licence Apache-2.0" in report
    planned = estimate(config)
    assert [row.stage for row in planned.rows] == list(ran.made)
    assert all(row.in_store for row in planned.rows)
    again = run_chain(config, "pretrained-again")
    assert all(row["cached"] for row in again.result["stages"])


@pytest.mark.parametrize("by", ["seed", "s2bnn"])
def test_students_that_learn_from_the_teacher_itself(place: Path, by: str) -> None:
    student = {"backbone": "reactnet" if by == "s2bnn" else "smallconv", "width": 0.25}
    transfer = {"method": by, "epochs": 1, "batch_size": 16, "queue": 16}
    config = small(place, transfer=transfer, student=student, until="transfer")
    ran = run_chain(config, by)
    assert load(ran.path("transfer")).image_size == 32
    assert estimate(config).rows[-1].in_store


def test_a_training_continues_from_the_weights(place: Path) -> None:
    backbone = "timm:vit_small_patch14_dinov2?depth=2&embed_dim=48&num_heads=3"
    over = {"method": "simclr", "backbone": backbone, "epochs": 1, "batch_size": 16, "optimizer": "adamw"}
    data = {"image_size": 56}

    def config(**more: Any) -> Config:
        values = small(place, data=data, until="transfer").model_dump()
        values["pretext"] = {**over, "weights": str(place / "vit"), "learning_rate": 1e-3, **more}
        return Config.model_validate(values)

    ran = run_chain(config(), "continued")
    start, made = load(ran.path("weights")), load(ran.path("pretext"))
    assert ran.inputs("pretext")["checkpoint"] == ran.made["weights"]
    assert ran.inputs("sound")["checkpoint"] == ran.made["weights"]
    assert made.description()["mean"] == start.description()["mean"]
    assert not made.own_input
    moved = [
        (made.backbone.state_dict()[name] - tensor).norm() / tensor.norm().clamp_min(1e-6)
        for name, tensor in start.backbone.state_dict().items()
    ]
    assert max(moved) > 0
    assert sorted(moved)[len(moved) // 2] < 0.1
    assert "weights" not in ran.store.meta(ran.made["pretext"])["config"]["pretext"]
    assert all(row.in_store for row in estimate(config()).rows)
    with pytest.raises(ConfigError, match=r"set pretext.backbone=timm:vit_small_patch14_dinov2\?"):
        run_chain(config(backbone="timm:vit_small_patch14_dinov2"), "wrong")


def test_the_shortest_way_to_an_answer(place: Path) -> None:
    config = small(place, until="head", predict={"neighbours": 5, "student": False})
    ran = run_chain(config, "head")
    assert not {"cluster", "transfer", "finetune-teacher", "distill"} & set(ran.made)
    assert load(ran.path("head")).rule == load(ran.path("pretext")).rule
    assert ran.result["shipped"]["model"] == "teacher-head"
    scores = {row["model"]: row["value"] for row in ran.result["scores"] if row["evaluation"] == "few-label"}
    assert {"teacher-linear", "teacher-head", "shipped"} <= scores.keys()
    assert all(row.in_store for row in estimate(config).rows)
    with pytest.raises(ConfigError, match="gives no teacher"):
        override(Config(), {"until": "head", "pretext": {"method": "hog"}})


def test_another_size_of_the_student_embeds_nothing_again(place: Path) -> None:
    first = run_chain(small(place, until="transfer"), "at-32")
    second = run_chain(small(place, until="transfer", data={"image_size": 48}), "at-48")
    assert first.made["embed"] == second.made["embed"]
    assert first.made["transfer"] != second.made["transfer"]


def test_candidates_are_compared(place: Path) -> None:
    ran = run_chain(small(place, ship={"compare": True, "folds": 2}), "compared")
    assert {"linear-teacher", "finetune-teacher", "ship"} <= set(ran.made)
    assert load(ran.path("linear-teacher")).image_size == 56


def test_bad_weights_are_refused_in_the_dry_run_and_before_anything_is_stored(
    place: Path, tmp_path: Path
) -> None:
    torch.save({"blocks.0.x": torch.zeros(1)}, tmp_path / "bad.pth")
    for weights, says in (
        ({"weights": str(tmp_path / "gone.pth"), "backbone": "timm:test_vit"}, "no such file"),
        ({"weights": str(tmp_path / "bad.pth"), "backbone": "timm:test_vit"}, "another network"),
    ):
        config = small(place, pretext=weights, store=str(tmp_path / "store"))
        for attempt in (estimate, run_chain):
            with pytest.raises(ConfigError, match=says) as refused:
                attempt(config)
            assert "\n" not in str(refused.value)
        assert not list((tmp_path / "store").glob("artifacts/checkpoint/*"))
        if "gone" in weights["weights"]:
            assert not list((tmp_path / "store").glob("artifacts/manifest/*"))


def test_the_card_names_the_weights_and_their_licence(place: Path, tmp_path: Path) -> None:
    from flows.export import export_run

    # timm's folder names a licence, and the key replaces it
    for licence, says in ((None, "| licence | apache-2.0 |"), ("CC-BY-4.0", "| licence | CC-BY-4.0 |")):
        config = small(place, pretext={"licence": licence, "mean": [0.4] * 3})
        ran = run_chain(config, f"card-{licence}")
        export_run(str(ran.folder), str(tmp_path / str(licence)), ["pt2"])
        card = (tmp_path / str(licence) / "README.md").read_text()
        assert says in card
        assert ran.store.meta(ran.made["pretext"])["weights"]["sha256"] in card
        assert json.loads((tmp_path / str(licence) / "card.json").read_text())["chain"]
