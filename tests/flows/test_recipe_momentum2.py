"""The recipe for the main result of Momentum² Teacher."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flows.__main__ import main
from flows.recipes import override, recipe
from models.schedules import SCHEDULES
from tasks.config import Config


def test_it_is_the_authors_setting() -> None:
    pretext = recipe("momentum2-imagenet").pretext
    assert pretext.model_dump().items() >= {
        "method": "momentum2", "backbone": "resnet50", "epochs": 300, "hidden": 4096, "projection": 256,
        "momentum": 0.99, "momentum_final": 1.0, "teacher_norm": "momentum", "weight_decay": 1e-4,
        "crop_min": 0.08, "blur": 1.0, "second_blur": 0.1, "solarize": 0.0, "second_solarize": 0.2,
    }.items()  # fmt: skip
    assert pretext.learning_rate == 0.05 * pretext.batch_size / 256
    assert pretext.batch_size / pretext.norm_groups == 128
    steps_per_epoch = 1_281_167 // pretext.batch_size
    steps, schedule = 300 * steps_per_epoch, SCHEDULES[pretext.schedule]
    peak = 10 * steps_per_epoch
    assert schedule(peak - 1, steps, pretext.warmup) == 1.0
    assert schedule(peak // 2 - 1, steps, pretext.warmup) == pytest.approx(0.5, abs=1e-3)


def test_it_survives_the_form() -> None:
    config = recipe("momentum2-imagenet")
    assert override(Config(), config.model_dump()) == config


def test_dry_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["run", "momentum2-imagenet", "--dry-run", "--json", "--store", str(tmp_path / "store")]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    rows = {row["stage"]: row for row in found["rows"]}
    assert rows["pretext"]["rows"] == 23_508_032  # parameters of ResNet-50 without its classifier
    assert rows["manifest"]["rows"] == 1_281_167 + 50_000
