"""External features in the store are named by the content of files and images, not by their place."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.errors import DataError
from data.external import ExternalFeatures
from data.schemas import MANIFEST
from data.store import Store
from data.tables import read_vectors, write_table
from data.types import Artifact
from models.configs.external import External
from tasks.config import Compute, Config
from tasks.job import run
from tasks.recall import Recall
from tasks.stage import Request
from tasks.stages.external import plan

URIS = [f"{i}.png" for i in range(6)]


def images(store: Store, name: str, train: str = "a") -> Artifact:
    """A manifest of four training and two test images. `train` gives their content hashes."""
    made = Artifact(kind="manifest", fingerprint=name)
    with store.draft(made, interrupted=lambda: False, waiting=lambda: None) as draft:
        columns = {
            "index": range(6),
            "uri": URIS,
            "sha256": [train, *"bcdef"],
            "split": ["train"] * 4 + ["test"] * 2,
            "label": [None] * 6,
            "width": [8] * 6,
            "height": [8] * 6,
        }
        write_table(draft / "out" / "images.parquet", columns, MANIFEST)
        counts = {"train": 4, "unlabelled": 0, "test": 2}
        store.publish(
            made, draft, {"parts": {"train": train, "unlabelled": "", "test": "t"}, "counts": counts}
        )
    return made


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def write(path: Path, seed: int = 0, uris: list[str] = URIS) -> Path:
    x = np.random.default_rng(seed).normal(size=(len(uris), 3)).astype(np.float32)
    pq.write_table(pa.table({"uri": uris, "vector": list(x)}), path)
    return path


def request(path: Path, manifest: Artifact, part: Any = "train") -> Request:
    return plan(Config(pretext=External(features=f"parquet:{path}")), manifest, part=part)


def build(store: Store, asked: Request) -> tuple[Artifact, bool]:
    return run(asked, store, Compute(), lambda event: None, lambda: False, {})


def test_named_by_content_not_by_place(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = images(store, "m")
    here = write(tmp_path / "here.parquet")
    made, cached = build(store, request(here, manifest))
    assert not cached
    index, x = read_vectors(store.folder(made))
    assert index.tolist() == [0, 1, 2, 3]
    metadata = pq.read_schema(next(store.folder(made).glob("part-*.parquet"))).metadata
    assert metadata[b"dim"] == b"3"
    assert metadata[b"layer"] == b"external"
    assert metadata[b"model"].startswith(b"external-")
    shutil.copy(here, tmp_path / "there.parquet")
    with monkeypatch.context() as patch:  # an artifact that exists needs no join
        patch.setattr(ExternalFeatures, "blocks", None)
        assert build(store, request(tmp_path / "there.parquet", manifest)) == (made, True)
        assert build(store, request(here, images(store, "another test image"))) == (made, True)
    other, _ = build(store, request(write(tmp_path / "there.parquet", seed=1), manifest))
    assert other != made
    assert not np.array_equal(read_vectors(store.folder(other))[1], x)
    assert build(store, request(here, images(store, "n", train="A")))[0] != made
    assert build(store, request(here, manifest, "test"))[0] not in (made, other)


def test_a_failed_join_leaves_nothing(store: Store, tmp_path: Path) -> None:
    asked = request(write(tmp_path / "a.parquet", uris=URIS[:3]), images(store, "m"))
    with pytest.raises(
        DataError, match=r"1 of 4 images \(train, unlabelled\) have no vector; the first is '3\.png'"
    ):
        build(store, asked)
    assert not list(store.root.glob("artifacts/features/*"))
    assert not list(store.root.glob("drafts/features/*"))


def test_unchanged_files_are_known_without_a_process(store: Store, tmp_path: Path) -> None:
    manifest, path = images(store, "m"), write(tmp_path / "a.parquet")
    asked = request(path, manifest)
    assert asked.by_content
    recall = Recall(store, asked)
    assert recall.made() is None
    made, _ = build(store, asked)
    recall.keep(made)
    assert Recall(store, asked).made() == made
    assert Recall(store, request(path, manifest, "test")).made() is None
    assert Recall(store, request(path, images(store, "n"))).made() is None
    write(path, seed=1, uris=[*URIS, "more"])
    assert Recall(store, asked).made() is None
