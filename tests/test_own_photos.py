"""The benchmark of own photos: its contestants are given what the product gives its own networks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.own_photos import from_scratch
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
