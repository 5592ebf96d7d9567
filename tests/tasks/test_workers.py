"""Child processes: how they fail, and that they end when their parent ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.errors import DataError, Interrupted, StageError
from data.store import Store
from data.tables import read_vectors
from data.types import Artifact
from tasks.config import Compute, Config
from tasks.overlay import resolve
from tasks.stages import cluster, embed, manifest, pretext
from tasks.workers import Workers

TINY: dict[str, Any] = {
    "data": {"image_size": 16},
    "pretext": {
        "method": "simclr",
        "backbone": "smallconv",
        "width": 0.25,
        "epochs": 1,
        "batch_size": 16,
        "projection": 8,
    },
    "cluster": {"k": 4},
}


def silent(event: dict[str, Any]) -> None:
    return None


def photos(folder: Path, names: list[str]) -> None:
    for number, name in enumerate(names):
        pixels = np.random.default_rng(number).integers(0, 255, (16, 16, 3), dtype=np.uint8)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def workers(store: Store) -> Iterator[Workers]:
    with Workers(store, Compute(), store.root / "log.txt") as made:
        yield made


def configuration(folder: Path) -> Config:
    return resolve(
        {**TINY, "data": {**TINY["data"], "train": f"folder:{folder}", "test": f"folder:{folder}"}}
    )


def up_to_features(
    workers: Workers, config: Config, checkpoint: Artifact | None = None
) -> tuple[Artifact, Artifact]:
    images, _ = workers.make(manifest.plan(config), "manifest", silent)
    teacher = checkpoint or workers.make(pretext.plan(config, images), "pretext", silent)[0]
    features, _ = workers.make(
        embed.plan(config, images, teacher, part="train", layer="features"), "embed", silent
    )
    return teacher, features


def test_new_images_cost_their_own_features_only(workers: Workers, store: Store, tmp_path: Path) -> None:
    names = [f"{i:02}.png" for i in range(20)]
    photos(tmp_path, names)
    config = configuration(tmp_path)
    teacher, before = up_to_features(workers, config)
    assert store.meta(before)["rows_computed"] == 20

    photos(tmp_path, [*names, "00-new.png"])  # sorts between the others, so that every later index moves
    _, after = up_to_features(workers, config, teacher)
    assert store.meta(after)["rows_computed"] == 1
    old_index, old = read_vectors(store.folder(before))
    new_index, new = read_vectors(store.folder(after))
    assert np.array_equal(new_index, np.arange(21))
    moved = np.delete(new, 0, axis=0)  # "00-new.png" comes before "00.png"
    assert np.array_equal(moved, old)
    assert np.array_equal(old_index, np.arange(20))


def test_the_same_images_elsewhere_are_the_same_manifest(workers: Workers, tmp_path: Path) -> None:
    for place in ("here", "there"):
        photos(tmp_path / place, ["a.png", "b.png"])
    made = [
        workers.make(manifest.plan(configuration(tmp_path / place)), "manifest", silent)
        for place in ("here", "there")
    ]
    assert made[0][0] == made[1][0]
    assert [cached for _, cached in made] == [False, True]


def test_the_users_mistake_arrives_as_it_was_raised(workers: Workers, store: Store, tmp_path: Path) -> None:
    photos(tmp_path, ["a.png", "b.png", "c.png"])
    config = configuration(tmp_path)
    _, features = up_to_features(workers, config)
    request = cluster.plan(config, features)
    with pytest.raises(DataError, match=r"cluster\.k = 4 is more than the 3 images; choose at most 3"):
        workers.make(request, "cluster", silent)
    assert not store.has(request.artifact(store))
    assert list(store.folder(request.artifact(store)).parent.glob("*")) == []


def test_other_failures_name_stage_cause_and_log(workers: Workers, tmp_path: Path) -> None:
    photos(tmp_path, ["a.png", "b.png", "c.png"])
    config = configuration(tmp_path)
    images, _ = workers.make(manifest.plan(config), "manifest", silent)
    broken = pretext.plan(config, images)
    broken = broken.model_copy(update={"settings": {**broken.settings, "image_size": "large"}})
    with pytest.raises(StageError, match=r"stage pretext: .+; log: .+log\.txt"):
        workers.make(broken, "pretext", silent)
    assert workers.make(manifest.plan(config), "manifest", silent)[0] == images  # the child continues


def test_a_killed_child_is_told_from_a_failure(store: Store, tmp_path: Path) -> None:
    photos(tmp_path, [f"{i}.png" for i in range(20)])
    config = configuration(tmp_path)
    with Workers(store, Compute(), store.root / "log.txt") as workers:
        images, _ = workers.make(manifest.plan(config), "manifest", silent)
        long = pretext.plan(
            resolve({**config.model_dump(), "pretext": {**TINY["pretext"], "epochs": 50_000}}), images
        )

        def kill(event: dict[str, Any]) -> None:
            if event["event"] == "progress":
                os.kill(workers._children["train"].pid, signal.SIGKILL)

        with pytest.raises(StageError, match=r"signal SIGKILL \(out of memory\?\)"):
            workers.make(long, "pretext", kill)


def test_stopping_keeps_the_checkpoint_and_the_next_one_goes_on(store: Store, tmp_path: Path) -> None:
    photos(tmp_path, [f"{i}.png" for i in range(20)])
    config = configuration(tmp_path)
    long = {**TINY["pretext"], "epochs": 50_000}
    with Workers(store, Compute(), store.root / "log.txt") as workers:
        images, _ = workers.make(manifest.plan(config), "manifest", silent)
        request = pretext.plan(resolve({**config.model_dump(), "pretext": long}), images)

        def stop(event: dict[str, Any]) -> None:
            if event["event"] == "progress":
                workers.stop()

        with pytest.raises(Interrupted, match="pretext was stopped"):
            workers.make(request, "pretext", stop)
    said: list[str] = []
    with Workers(store, Compute(), store.root / "log.txt") as workers:

        def listen(event: dict[str, Any]) -> None:
            said.append(event.get("text", ""))
            if event["event"] == "progress":
                workers.stop()

        with pytest.raises(Interrupted):
            workers.make(request, "pretext", listen)
    assert any(text.startswith("resuming at step") for text in said)


PARENT = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
from test_workers import *
store = Store({store!r})
config = configuration(Path({folder!r}))
with Workers(store, Compute(), store.root / "log.txt") as workers:
    images, _ = workers.make(manifest.plan(config), "manifest", silent)
    def tell(event):
        if event["event"] == "progress":
            print(workers._children["train"].pid, flush=True)
    longer = resolve({{**config.model_dump(), "pretext": {{**TINY["pretext"], "epochs": 50_000}}}})
    workers.make(pretext.plan(longer, images), "pretext", tell)
"""


def test_a_child_goes_when_its_parent_is_killed(tmp_path: Path) -> None:
    photos(tmp_path / "photos", [f"{i}.png" for i in range(20)])
    code = PARENT.format(
        here=str(Path(__file__).parent), store=str(tmp_path / "store"), folder=str(tmp_path / "photos")
    )
    root = str(Path(__file__).parents[2])
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 30
    while _alive(child):
        assert time.monotonic() < deadline, "the child outlived its parent"
        time.sleep(0.1)
    assert list((tmp_path / "store" / "drafts" / "checkpoint").glob("*/state/training.pt"))
    assert not list((tmp_path / "store" / "artifacts").glob("checkpoint/*"))


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] not in "ZX"
    except FileNotFoundError:
        return False
