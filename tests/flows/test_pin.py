"""Reruns over a folder that grows, shrinks and changes: what is kept, computed and reported."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_process import Made, photographs, run_chain
from PIL import Image

from data.store import Store
from data.tables import column, read_table
from data.types import Artifact
from flows.pin import GROWTH
from flows.recipes import override
from flows.rewrite import rewrite_report
from models.clustering.nearest import nearest_two
from tasks.clustering import read_clusters
from tasks.config import Config
from tasks.job import run as build
from tasks.stages.manifest import plan as manifest_of

QUICK = {"epochs": 1, "batch_size": 32, "optimizer": "adamw", "learning_rate": 1e-3}
TINY = {"backbone": "smallconv", "width": 0.25}
EACH = 60
TRAINED = {"pretext", "cluster", "transfer", "finetune-teacher", "finetune-student", "distill", "scratch"}
LABELS = {"labels", "predict"}
MEASURED = {"growth", "embed-drift", "assign-drift", "drift"}


class Folder:
    """A folder of training photographs, and runs over it."""

    def __init__(self, place: Path) -> None:
        photographs(place / "train", each=EACH)
        photographs(place / "test", each=90)
        for path in sorted((place / "test").rglob("*.png")):
            if int(path.stem) < EACH:  # these are in train
                path.unlink()
        photographs(place / "more", each=140)
        self.place, self.runs = place, 0

    def path(self, name: str) -> Path:
        return self.place / "train" / name

    def add(self, kind: str, *numbers: int) -> None:
        for number in numbers:
            shutil.copy(
                self.place / "more" / kind / f"{number:03}.png", self.path(f"{kind}/new-{number}.png")
            )

    def run(self, **over: Any) -> Made:
        config = override(
            Config(),
            {
                "data": {
                    "train": f"folder:{self.place / 'train'}",
                    "test": f"folder:{self.place / 'test'}",
                    "image_size": 32,
                    "labels_per_class": 5,
                },
                "pretext": {"method": "simclr", **TINY, **QUICK},
                "cluster": {"k": 6},
                "transfer": {"method": "pseudo-labels", **QUICK},
                "student": TINY,
                "finetune": {"steps": 3, "batch_size": 10},
                "distill": {"epochs": 1, "batch_size": 32},
                "pin": {"enabled": True},
                "store": str(self.place / "store"),
            },
        )
        self.runs += 1
        return run_chain(override(config, over), f"run{self.runs}")


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def record(ran: Made) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((ran.folder / "run.json").read_text())
    return told


def computed(ran: Made) -> set[str]:
    return {row["stage"] for row in record(ran)["stages"] if not row["cached"]}


def assert_assigned_as_anew(ran: Made) -> None:
    """Reused and newly computed rows together equal the result of computing everything."""
    space, centroids = read_clusters(ran.path("cluster"))
    from data.tables import read_vectors

    index, x = read_vectors(ran.path("embed"))
    found = nearest_two(space.apply(x), centroids, "cpu")
    rows = read_table(ran.path("assign"))
    order = np.argsort(column(rows, "index"))
    np.testing.assert_array_equal(column(rows, "index")[order], index)
    for name, values in zip(("cluster", "distance", "runner_up"), found, strict=True):
        np.testing.assert_array_equal(column(rows, name)[order], values)


def test_night_after_night(folder: Folder) -> None:
    from flows.server.history import past, table

    first = folder.run()
    told = record(first)
    assert (told["pinned"], told["rerun"]["because"]) == (False, "no earlier run of this configuration")
    assert computed(first) == set(first.made)
    assert set(first.made) >= TRAINED | LABELS

    again = folder.run()
    assert computed(again) == {
        "growth"
    }  # requested for the first time; the result is in the store from now on
    assert {**again.made, "growth": None} == {**first.made, "growth": None}
    assert record(again)["rerun"]["because"] == "the images are those it was trained on"
    assert not record(again)["pinned"]
    assert computed(folder.run()) == set()

    folder.add("temple", 70, 71)
    grown = folder.run()
    told = record(grown)
    assert told["pinned"]
    figures = told["rerun"]["figures"]
    assert (figures["images"], figures["new"], figures["changed"], figures["gone"]) == (2 * EACH + 2, 2, 0, 0)
    assert figures["share"] == pytest.approx(2 / (2 * EACH))
    assert {label: grown.made[label] for label in TRAINED} == {label: first.made[label] for label in TRAINED}
    assert TRAINED.isdisjoint(computed(grown))
    assert LABELS.isdisjoint(grown.made)
    assert set(grown.result["not_needed"]) == LABELS
    assert grown.store.meta(grown.made["embed"])["rows_computed"] == 2
    assert grown.store.meta(grown.made["assign"])["rows_computed"] == 2
    assert grown.made["embed"] == grown.made["embed-drift"]
    assert grown.inputs("assign")["clusters"] == first.made["cluster"]
    assert_assigned_as_anew(grown)
    assert computed(folder.run()) == set()
    (grown.folder / "report.html").unlink()
    assert "report.html" in str(rewrite_report(str(grown.folder), None))

    folder.path("temple/000.png").unlink()
    folder.path("flower/001.png").rename(folder.path("flower/another-name.png"))
    shutil.copy(folder.place / "more" / "flower" / "080.png", folder.path("flower/002.png"))
    changed = folder.run()
    figures = record(changed)["rerun"]["figures"]
    assert (figures["new"], figures["changed"], figures["gone"], figures["relabelled"]) == (2, 1, 1, 0)
    assert record(changed)["pinned"]
    assert changed.store.meta(changed.made["embed"])["rows_computed"] == 1  # a name is not content
    assert_assigned_as_anew(changed)

    folder.path("temple/003.png").rename(folder.path("flower/003-temple.png"))
    relabelled = folder.run()
    told = record(relabelled)
    assert told["pinned"]
    assert told["rerun"]["figures"]["relabelled"] == 1
    assert {label: relabelled.made[label] for label in ("pretext", "cluster", "transfer")} == {
        label: first.made[label] for label in ("pretext", "cluster", "transfer")
    }
    assert {"labels", "finetune-teacher", "finetune-student", "distill", "predict"} <= computed(relabelled)
    assert (relabelled.folder / "report.html").exists()
    (relabelled.folder / "report.html").unlink()
    rewrite_report(str(relabelled.folder), None)

    folder.add("flower", *range(90, 110))
    retrained = folder.run()
    told = record(retrained)
    assert not told["pinned"]
    assert "more than 10.0 %" in told["rerun"]["because"]
    assert computed(retrained) >= TRAINED
    assert "drift" not in retrained.made  # the share alone decides
    folder.add("temple", 120)
    assert record(folder.run())["rerun"]["earlier"] == Path(retrained.folder).name

    rows = table(past(Store(folder.place / "store"), {**told, "name": "tomorrow"}))
    assert [row["run"] for row in rows] == [f"run{n}" for n in range(folder.runs, 0, -1)]
    assert [row["pinned"] for row in rows] == [True, False, True, True, True, True, False, False, False]
    assert rows[-1]["images"] == 2 * EACH
    assert all(row["score"] for row in rows)


def test_images_of_another_kind_are_trained_on_though_they_are_few(folder: Folder) -> None:
    shapes = {"pretext": {"method": "hog"}, "until": "transfer"}
    folder.run(**shapes)
    for number in range(10):
        stripes = np.tile(255 * (np.arange(40) // (2 + number) % 2), (40, 1)).astype(np.uint8)
        Image.fromarray(stripes).save(folder.path(f"temple/stripes-{number}.png"))
    ran = folder.run(**shapes, pin={"far": 0.02, "shift": 10.0})
    told = record(ran)
    assert not told["pinned"]
    assert told["rerun"]["because"].startswith("the share of images far from their centroid is")
    assert {"cluster", "transfer"} | MEASURED - {"embed-drift"} <= computed(ran)
    figures = told["rerun"]["figures"]
    distance = {
        name: column(read_table(ran.store.folder(made)), "distance").astype(np.float64)
        for name, made in ran.inputs("drift").items()
    }
    now, then = distance["assignments"], distance["before"]
    assert figures["shift"] == pytest.approx(abs(now.mean() - then.mean()) / then.mean())
    assert figures["far"] == (now > np.quantile(then, 0.99)).mean()


def test_another_configuration_is_nobodys_rerun(folder: Folder) -> None:
    folder.run()
    folder.add("temple", 70)
    told = record(folder.run(cluster={"k": 5}))
    assert told["rerun"]["because"] == "no earlier run of this configuration"
    told = record(folder.run(compute={"workers": 1}))  # where it is computed doesn't matter
    assert told["pinned"]


def test_what_is_gone_from_the_store_is_trained_anew(folder: Folder) -> None:
    first = folder.run()
    shutil.rmtree(first.path("transfer"))
    folder.add("temple", 70)
    assert record(folder.run())["rerun"]["earlier"] is None


def test_another_name_is_neither_growth_nor_a_reason_to_train(folder: Folder) -> None:
    first = folder.run()
    folder.path("temple/004.png").rename(folder.path("temple/renamed.png"))
    ran = folder.run()
    told = record(ran)
    assert told["pinned"]
    assert (told["rerun"]["figures"]["share"], told["rerun"]["figures"]["same"]) == (0, False)
    assert ran.made["pretext"] == first.made["pretext"]
    assert ran.store.meta(ran.made["embed"])["rows_computed"] == 0


def test_two_images_with_one_content(tmp_path: Path) -> None:
    """Copies are the same image twice. Each copy has its own row, whether reused or computed."""
    folder = Folder(tmp_path)
    shutil.copy(folder.path("temple/005.png"), folder.path("temple/copy.png"))
    folder.run()
    folder.add("flower", 70)
    shutil.copy(folder.path("temple/005.png"), folder.path("temple/other.png"))
    ran = folder.run()
    assert record(ran)["rerun"]["figures"]["new"] == 1
    assert_assigned_as_anew(ran)


def test_growth_of_a_manifest_against_itself(tmp_path: Path) -> None:
    from tasks.stages import growth

    photographs(tmp_path / "train", each=6)
    store, config = (
        Store(tmp_path / "store"),
        override(Config(), {"data": {"train": f"folder:{tmp_path / 'train'}"}}),
    )

    def make(request: Any) -> Artifact:
        return build(request, store, config.compute, lambda event: None, lambda: False, {})[0]

    images = make(manifest_of(config, only=config.data.train))
    meta = store.meta(make(growth.plan(images, before=images)))
    assert {name: meta[name] for name in GROWTH} == {
        "images": 12,
        "before": 12,
        "new": 0,
        "changed": 0,
        "gone": 0,
        "relabelled": 0,
        "same": True,
        "share": 0.0,
    }
