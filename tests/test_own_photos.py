"""The benchmark of own photos: its contestants are given what the product gives its own networks."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import own_photos
from benchmarks.own_photos import Cell, Record, from_scratch, measure
from data.types import Artifact
from flows.recipes import recipe
from tasks.stages import finetune


class Stopped(Exception):
    """Ends a training before its first step."""


@pytest.mark.parametrize("plain", [False, True])
def test_networks_from_scratch_have_the_rates_of_the_products_own(
    monkeypatch: pytest.MonkeyPatch, plain: bool
) -> None:
    trained: list[Any] = []

    def train(method: Any, *_: Any, **__: Any) -> None:
        trained.append(method.config)
        raise Stopped

    monkeypatch.setattr("models.engine.train", train)
    config = recipe("photos")
    pixels = np.zeros((4, 32, 32, 3), np.uint8)
    images: Any = SimpleNamespace(size=32, classes=2, pixels=pixels, label=np.arange(4) % 2)
    with pytest.raises(Stopped):
        from_scratch(images, np.arange(4), config, plain, 3)
    inputs = [Artifact(kind=kind, fingerprint="a") for kind in ("manifest", "labels")]
    theirs = finetune.plan(config, *inputs, role="scratch", steps=3).settings["finetune"]
    (found,) = trained
    for name in ("optimizer", "learning_rate", "head_learning_rate", "weight_decay", "freeze"):
        assert getattr(found, name) == theirs[name]


def test_only_the_runs_that_make_plans_have_the_machine_for_themselves(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ran: list[tuple[str, int, str, int | None]] = []

    def run(recipe: str, settings: list[str], *given: Any, threads: int | None = None) -> Any:
        (labels,) = [text for text in settings if text.startswith("data.labels_per_class=")]
        ran.append((recipe, given[1], labels.partition("=")[2], threads))
        stages = ("evaluate-shipped", "evaluate-student", "evaluate-teacher", "evaluate-scratch")
        return {
            "stages": [{"stage": stage, "cached": False} for stage in stages],
            "shipped": {"model": "a"},
        }, 1.0

    monkeypatch.setattr(own_photos, "run_chain", run)
    monkeypatch.setattr(own_photos, "outcomes", lambda *_: np.array([True, False]))
    monkeypatch.setattr(own_photos, "calibration", lambda *_: {})
    a = Namespace(
        asked=["shipped", "student", "named"],
        named="digits",
        sources={"a": ("x", "y")},
        labels=[2.0, 5.0],
        minutes=[1.0],
        first=7,
        draws=2,
        settings=[],
        store=tmp_path,
    )
    record = Record(tmp_path / "rows.jsonl")
    measure(a, record, "a", 1.0, lambda: False)
    assert ran[:2] == [("photos", 7, "2", None), ("photos", 7, "5", None)]
    assert sorted(ran[2:4]) == [("photos", 8, "2", 1), ("photos", 8, "5", 1)]
    assert sorted(ran[4:]) == [("digits", draw, labels, 1) for draw in (7, 8) for labels in "25"]
    kept = Record(record.path)
    assert kept.rows.keys() == record.rows.keys()
    names = {"shipped", "student", "candidate scratch", "named"}
    assert {name for cell, name in kept.rows if cell == Cell("a", 1.0, 5.0, 8)} == names
    measure(a, kept, "a", 1.0, lambda: False)
    assert len(ran) == 8
