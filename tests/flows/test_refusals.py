"""What the images can't allow is refused before any training and in the dry run: no training stage starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from in_process import photographs, run_chain

from data.errors import UserError
from data.store import Store
from flows.estimate import estimate
from tasks.config import Config
from tasks.overlay import merge, resolve

TINY: dict[str, Any] = {
    "data": {"image_size": 16, "labels_per_class": 2},
    "pretext": {"backbone": "smallconv", "width": 0.25, "epochs": 1, "batch_size": 8},
    "cluster": {"k": 5},
    "transfer": {"epochs": 1, "batch_size": 8},
    "student": {"backbone": "smallconv", "width": 0.25},
    "finetune": {"steps": 2, "batch_size": 8},
    "distill": {"epochs": 1, "batch_size": 8},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("refusals")
    photographs(folder / "photos", each=15, side=20)
    photographs(folder / "one", each=15, side=20)
    for path in (folder / "one" / "flower").iterdir():
        path.unlink()
    (folder / "one" / "flower").rmdir()
    (folder / "flat").mkdir()
    for path in (folder / "photos" / "temple").iterdir():
        (folder / "flat" / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.mark.parametrize(
    ("over", "says"),
    [
        (
            {"cluster": {"k": 500}},
            r"cluster\.k = 500, but there are only \d+ training images; set at most \d+",
        ),
        ({"cluster": {"sample": 4}}, r"cluster\.sample = 4, but cluster\.k = 5 .*set at least 5"),
        ({"pretext": {"method": "moco", "queue": 4096}}, r"pretext\.queue = 4096, but there are only"),
        ({"pretext": {"method": "deepcluster", "clusters": 300}}, r"pretext\.clusters = 300"),
        ({"pretext": {"method": "deepcluster-v2", "prototypes": 300}}, r"pretext\.prototypes = 300"),
        ({"transfer": {"method": "seed", "queue": 4096}}, r"transfer\.queue = 4096"),
        ({"predict": {"neighbours": 900}}, r"predict\.neighbours = 900"),
        (
            {"data": {"labels_per_class": 14}},
            r"data\.labels_per_class = 14, but '\w+' has \d+.*labels_short=take",
        ),
        ({"data": {"train": "folder:one"}}, "only one class .'temple'."),
        ({"data": {"train": "folder:flat"}}, "asks for labels, but no training image has one"),
    ],
)
def test_a_refusal_comes_before_any_training(
    place: Path, over: dict[str, Any], says: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(place)
    base = merge(Config().model_dump(), merge(TINY, {"data": {"train": "folder:photos", "test": None}}))
    config = resolve(merge(base, merge(over, {"store": str(tmp_path / "store")})))
    with pytest.raises(UserError, match=says):
        run_chain(config)
    store = Store(config.store)
    assert [path.name for path in (store.root / "artifacts").iterdir()] == ["manifest"]
    assert list((store.root / "drafts").glob("*/*")) == []
    with pytest.raises(UserError, match=says):
        estimate(config)


@pytest.mark.parametrize("leaks", ["keep", "drop", "refuse"])
def test_scores_with_and_without_leaked_images(place: Path, tmp_path: Path, leaks: str) -> None:
    """The test set has two images that are in train as well."""
    photographs(tmp_path / "test", each=10, side=20)
    others = sorted((place / "photos" / "flower").iterdir())[:2]
    for path in (tmp_path / "test").rglob("*.png"):
        number = int(path.stem)
        path.write_bytes(_noisy(path, number))
    for number, path in enumerate(others):
        (tmp_path / "test" / "flower" / f"leak{number}.png").write_bytes(path.read_bytes())
    over = {
        "data": {
            "train": f"folder:{place / 'photos'}",
            "test": f"folder:{tmp_path / 'test'}",
            "leaks": leaks,
        },
        "until": "finetune",
        "store": str(tmp_path / "store"),
        "evaluate": {"protocols": ["few-label"]},
    }
    config = resolve(merge(merge(Config().model_dump(), TINY), over))
    if leaks == "refuse":
        with pytest.raises(UserError, match="2 training images show the picture of a test image"):
            run_chain(config)
        return
    made = run_chain(config)
    rows = {(r["evaluation"], r["model"]): r for r in made.result["scores"] if r["metric"] == "top1"}
    whole = rows["few-label", "student-finetuned"]
    assert whole["n"] == 22
    if leaks == "drop":
        assert "without-leaks" not in {evaluation for evaluation, _ in rows}
        return
    without = rows["without-leaks", "student-finetuned"]
    assert (without["n"], without["setting"]) == (20, "few-label")
    assert -1e-9 <= whole["value"] * 22 - without["value"] * 20 <= 2 + 1e-9
    page = (made.folder / "report.html").read_text(encoding="utf-8")
    assert "Without leaked test images" in page
    assert "Images that show the same picture" in page


def _noisy(path: Path, seed: int) -> bytes:
    import io

    import numpy as np
    from PIL import Image

    pixels = np.random.default_rng(seed).integers(0, 256, (20, 20, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
