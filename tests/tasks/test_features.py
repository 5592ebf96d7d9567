"""Features in the store: which are reused from earlier ones, and the space in which they are clustered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data import schemas
from data.checkpoints import read_arrays
from data.errors import ArtifactError
from data.store import Store
from data.tables import VectorWriter, read_vectors
from data.types import Artifact
from tasks.config import Cluster, Compute, Config
from tasks.job import Job, run
from tasks.overlay import resolve
from tasks.stage import Outcome, Request
from tasks.stages import cluster, embed, manifest


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def build(store: Store, request: Request) -> Artifact:
    return run(request, store, Compute(device="cpu"), lambda event: None, lambda: False, {})[0]


def photos(folder: Path, names: list[str], first: int = 0) -> None:
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(names, first):
        pixels = np.random.default_rng(number).integers(0, 255, (80, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)


def described(store: Store, folder: Path, **hog: Any) -> tuple[Artifact, np.ndarray]:
    data = {"train": f"folder:{folder}", "image_size": 64}
    config = resolve({"data": data, "pretext": {"method": "hog", **hog}, "embed": {"batch_size": 3}})
    images = build(store, manifest.plan(config, only=data["train"]))
    made = build(store, embed.plan_described(config, images, part="train", only=data["train"]))
    return made, read_vectors(store.folder(made))[1]


def test_descriptors_of_new_images_are_the_only_ones_computed(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    photos(folder, [f"{i}.png" for i in range(7)])
    before, x = described(store, folder)
    assert store.meta(before)["rows_computed"] == 7
    photos(folder, ["1-new.png"], first=7)  # sorts between the others, so that later indices move
    after, y = described(store, folder)
    assert store.meta(after)["rows_computed"] == 1
    assert np.array_equal(np.delete(y, 1, axis=0), x)
    other, _ = described(store, folder, orientations=8)
    assert store.meta(other)["rows_computed"] == 8  # rows of another descriptor can't be reused


def test_descriptors_see_the_central_square_that_networks_see(store: Store, tmp_path: Path) -> None:
    import torch

    from data.decode import resize_square
    from data.preprocessing import stored_size
    from models.configs.hog import HOG
    from models.hog import descriptor

    photos(tmp_path / "photos", ["a.png", "b.png"])
    made, x = described(store, tmp_path / "photos")
    side = stored_size(64)
    assert side > 64
    edge = round((side - 64) / 2)
    pixels = [np.asarray(Image.open(tmp_path / "photos" / name)) for name in ("a.png", "b.png")]
    squares = np.stack([resize_square(p, side)[edge : edge + 64, edge : edge + 64] for p in pixels])
    assert np.allclose(x, descriptor(torch.from_numpy(squares), HOG()).numpy(), atol=1e-6)
    assert store.meta(made)["dim"] == x.shape[1]


@pytest.mark.parametrize("whitening", [0.0, 0.5, 1.0])
def test_clusters_lie_in_the_space_that_was_asked_for(whitening: float, store: Store) -> None:
    from sklearn.decomposition import PCA

    features = Artifact(kind="features", fingerprint="f")
    x = (np.random.default_rng(0).normal(size=(50, 4)) * [8, 4, 2, 1]).astype(np.float32)
    with store.draft(features, interrupted=lambda: False, waiting=lambda: None) as draft:
        with VectorWriter(draft / "out", schemas.features(4, "m", "l")) as out:
            out.write(np.arange(50), x)
        store.publish(features, draft, {"rows": 50})
    made = build(store, cluster.plan(Config(cluster=Cluster(k=3, pca=2, whitening=whitening)), features))
    matrix = read_arrays(store.folder(made) / "transform.safetensors")["matrix"]
    deviation = ((x - x.mean(0)) @ matrix).std(axis=0)
    expected = PCA(2).fit(x).singular_values_ / np.sqrt(50)
    assert np.allclose(deviation, expected ** (1 - whitening), rtol=1e-3)


def test_an_artifact_that_lacks_rows_is_not_published(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos(tmp_path / "photos", [f"{i}.png" for i in range(5)])
    write = VectorWriter.write

    def first_only(self: VectorWriter, index: np.ndarray, vectors: np.ndarray) -> None:
        if not self.rows:
            write(self, index, vectors)

    monkeypatch.setattr(VectorWriter, "write", first_only)
    with pytest.raises(ArtifactError, match="embed: 3 rows were written, but there are 5; nothing"):
        described(store, tmp_path / "photos")
    assert list(store.artifacts("features")) == []


def test_manifests_of_other_sources_do_not_wait_for_each_other(store: Store, tmp_path: Path) -> None:
    """Each is built in a draft of its own, although seed and settings are the same."""
    names = []
    for name in ("first", "second"):
        photos(tmp_path / name, ["a.png", "b.png"])
        config = resolve({"data": {"train": f"folder:{tmp_path / name}", "image_size": 64}})
        request = manifest.plan(config, only=config.data.train)
        seen: list[str] = []

        def building(job: Job, seen: list[str] = seen) -> Outcome:
            seen.append(job.out.parent.name)
            raise ZeroDivisionError

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(manifest, "build", building)
            with pytest.raises(ZeroDivisionError):
                build(store, request)
        names += seen
    assert len(set(names)) == 2
