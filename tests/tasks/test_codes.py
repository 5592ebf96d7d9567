"""Labels that a method computes itself: how they are written beside the checkpoint, and published."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from data.errors import ArtifactError, Interrupted
from data.schemas import CODES
from data.store import Store
from data.tables import read_table
from data.types import Artifact
from models.method import Method
from tasks.config import Compute
from tasks.feed import ImageFeed
from tasks.fit import write_codes
from tasks.job import run
from tasks.stages.codes import plan

INDEX = np.array([3, 5, 6, 9])


class Labelling(Method):
    """A method that labels images by their pixels in the sweep."""

    def __init__(self, given: list[list[int]] | None) -> None:
        super().__init__()
        self.given = given
        self.seen: list[int] = []

    def codes(self, sweep: Any) -> torch.Tensor | None:
        assert not torch.is_grad_enabled()
        self.seen = [int(i) for batch in sweep() for i in batch.index]
        return None if self.given is None else torch.tensor(self.given)


def write(out: Path, given: list[list[int]] | None, interrupted: bool = False) -> Labelling:
    images = SimpleNamespace(read=lambda index: np.zeros((len(index), 8, 8, 3), np.uint8))
    feed = ImageFeed(images, SimpleNamespace(steps_per_epoch=1), INDEX, None, 0)  # type: ignore[arg-type]
    method = Labelling(given)
    job: Any = SimpleNamespace(out=out, compute=Compute(device="cpu"), interrupted=lambda: interrupted)
    write_codes(job, method, feed, round=7)
    return method


def test_every_head_labels_every_image_that_it_knows(tmp_path: Path) -> None:
    method = write(tmp_path, [[2, 0, 1, 0], [0, -100, 0, 4]])
    assert method.seen == INDEX.tolist()
    rows = read_table(tmp_path / "codes.parquet", CODES).to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        (7, 3, 0, 2), (7, 5, 0, 0), (7, 6, 0, 1), (7, 9, 0, 0), (7, 3, 1, 0), (7, 6, 1, 0), (7, 9, 1, 4),
    ]  # fmt: skip


@pytest.mark.parametrize("given", [None, [[1, 2, 3]]])
def test_a_method_that_promised_codes_must_give_one_for_each_image(given: Any, tmp_path: Path) -> None:
    with pytest.raises(
        ArtifactError, match=r"Labelling\.codes returned labels of shape .*, not \(heads, 4\)"
    ):
        write(tmp_path, given)


def test_labelling_can_be_stopped(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        write(tmp_path, [[0, 0, 0, 0]], interrupted=True)


def test_the_artifact_holds_them_and_says_how_evenly_they_are_used(tmp_path: Path) -> None:
    store, checkpoint = Store(tmp_path), Artifact(kind="checkpoint", fingerprint="c")
    with store.draft(checkpoint, interrupted=lambda: False, waiting=lambda: None) as draft:
        write(draft / "out", [[2, 0, 0, 0], [0, 1, 2, 3]])
        store.publish(checkpoint, draft, {"rows": 0})
    said: list[str] = []
    made, _ = run(
        plan(checkpoint), store, Compute(), lambda event: said.append(event["text"]), lambda: False, {}
    )
    assert store.meta(made)["used"] == [2, 4]
    assert said == ["codes of 2 heads: 2, 4 labels in use; the largest has 75.0% of the images"]
    assert read_table(store.folder(made), CODES).equals(
        read_table(store.folder(checkpoint) / "codes.parquet", CODES)
    )
