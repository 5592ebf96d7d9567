"""What a dry run says about time, at a pace that is given instead of measured."""

import json
from pathlib import Path
from typing import Any

import pytest

import data.manifest
from flows.estimate import CHILDREN, STAGE, START, Estimate, Looked, estimate
from flows.recipes import override, parse_settings, recipe
from models.pace import Pace
from models.trials import Measured
from models.work import Describe, Pass, Step, Work
from tasks.config import Config
from tasks.planning import ALIGNED

A_STEP, A_PASS = 0.5, 0.01


def given(work: Work) -> Measured:
    seconds = A_STEP if isinstance(work, Step) else A_PASS if isinstance(work, Pass | Describe) else None
    if seconds is None:  # chores as on the machine where they were measured, products at 1 TFLOP/s
        seconds = 1e-12 if work.kind == "products" else 1.0
    return Measured(work, seconds)


@pytest.fixture(autouse=True)
def _everything_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.pace.IGNORED", 0.0)
    monkeypatch.setattr("models.pace._alike", lambda work, other: False)


def configured(place: Path, name: str, **settings: Any) -> Config:
    words = [f"{key}={json.dumps(value)}" for key, value in (settings | {"store": str(place)}).items()]
    return override(recipe(name), parse_settings(words))


def planned(place: Path, name: str = "digits", **settings: Any) -> Estimate:
    config = configured(place, name, **settings)
    pace = Pace(trial=given)
    pace.imported(4.0)
    return estimate(config, pace=pace, seconds=0.5)


def seconds(found: Estimate) -> dict[str, float]:
    return {row.stage: row.seconds for row in found.rows}


def test_steps_and_passes_of_digits_by_hand(tmp_path: Path) -> None:
    found = planned(tmp_path)
    at = seconds(found)
    images, test = 1437, 360
    transfer, distill = 36 * (images // 128), 27 * (images // 128)
    assert at["pretext"] == pytest.approx(130 * (images // 256) * A_STEP + CHILDREN["train"] + STAGE)
    assert at["transfer"] == pytest.approx(transfer * A_STEP + STAGE)
    assert at["distill"] == pytest.approx(distill * A_STEP + STAGE)
    assert at["finetune-student"] == at["finetune-teacher"] == pytest.approx(100 * A_STEP + STAGE)
    assert at["scratch"] == pytest.approx((100 + transfer + distill) * A_STEP + STAGE)
    assert at["predict"] == pytest.approx(images * A_PASS + STAGE)
    assert at["embed"] == pytest.approx(images * A_PASS, abs=0.2)
    assert at["embed-student-test"] == pytest.approx(test * A_PASS, abs=0.2)
    # Two views of some training images, and for the classifier the test images.
    aligned = 2 * ALIGNED * A_PASS
    assert at["evaluate-teacher"] == pytest.approx(aligned, abs=1)
    assert at["evaluate-student"] == pytest.approx(aligned + test * A_PASS, abs=1)
    assert at["manifest"] > CHILDREN["plain"]


def test_a_run_is_its_start_and_all_of_its_stages(tmp_path: Path) -> None:
    found = planned(tmp_path)
    assert {row.stage for row in found.rows if not row.seconds} == set()
    assert found.starting == pytest.approx(START)
    assert found.seconds == pytest.approx(found.starting + sum(row.seconds for row in found.rows))
    assert found.as_json()["hours"]["cpu"] == pytest.approx(found.seconds / 3600)
    assert "measuring its pace took" in found.as_text()
    assert "not measured" not in found.as_text()


def test_rates_that_are_tried_take_a_quarter_of_the_steps_each(tmp_path: Path) -> None:
    tried = seconds(planned(tmp_path, **{"finetune.learning_rates": [0.1, 0.01]}))
    assert tried["finetune-student"] == pytest.approx(1.5 * 100 * A_STEP + STAGE)
    one = seconds(planned(tmp_path, **{"finetune.learning_rates": [0.1]}))
    assert one["finetune-student"] == pytest.approx(100 * A_STEP + STAGE)


def test_mirrors_views_and_a_second_network_are_passes(tmp_path: Path) -> None:
    both = seconds(planned(tmp_path, **{"predict.mirror": True, "predict.student": True}))
    assert both["predict"] == pytest.approx(2 * 2 * 1437 * A_PASS + STAGE)
    three = seconds(planned(tmp_path, **{"predict.views": 3}))
    assert three["predict"] == pytest.approx(3 * 1437 * A_PASS + STAGE)


def test_fewer_images_than_a_batch_are_one_step_per_epoch(tmp_path: Path) -> None:
    at = seconds(planned(tmp_path, **{"pretext.batch_size": 2000, "pretext.epochs": 7}))
    assert at["pretext"] == pytest.approx(7 * A_STEP + CHILDREN["train"] + STAGE)


def test_what_descriptors_take_counts(tmp_path: Path) -> None:
    at = seconds(planned(tmp_path, **{"pretext.method": "hog", "embed.layer": "features"}))
    assert at["embed"] == pytest.approx(1437 * A_PASS + CHILDREN["train"], abs=0.2)


def test_too_many_images_for_the_disk_are_decoded_in_every_epoch(tmp_path: Path) -> None:
    at = seconds(planned(tmp_path, "imagenet-paper"))
    config = recipe("imagenet-paper")
    steps = config.pretext.epochs * (1_281_167 // config.pretext.batch_size)  # type: ignore[attr-defined]
    # Nothing was read here, so decoding is not known and only the steps count.
    assert at["pretext"] == pytest.approx(steps * A_STEP + CHILDREN["train"] + STAGE)


def test_estimates_can_share_what_was_read_of_the_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, real = [], data.manifest.survey
    monkeypatch.setattr(data.manifest, "survey", lambda *a, **k: read.append(a) or real(*a, **k))
    looked: dict[str, Looked] = {}
    pace = Pace(trial=given)
    for size in (16, 24):
        config = configured(tmp_path, "digits", **{"data.image_size": size})
        found = estimate(config, seconds=0.5, pace=pace, surveys=looked)
        assert found.understood
        assert [row.rows for row in found.rows if row.stage == "manifest"] == [1797]
    assert len(read) == 1
    config = configured(tmp_path, "digits", **{"data.test": None})
    estimate(config, seconds=0.5, pace=pace, surveys=looked)
    assert len(read) == 2
