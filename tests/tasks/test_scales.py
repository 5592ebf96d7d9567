"""Training and test see objects at the same scale, in px or in shares, or the run is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from data.errors import ConfigError
from data.preprocessing import stored_size
from flows.as_yaml import plain
from flows.recipes import NAMES, override, recipe
from models.augment import crop_boxes
from models.configs.finetune import Finetune
from models.configs.shared import Views, px
from models.configs.swav import SwAV
from tasks.config import Config
from tasks.scales import NOTED, REFUSED, notes, ratio
from tasks.understood import describe

COUNTS = {"train": 10, "unlabelled": 0, "test": 0, "labelled": 0, "test_labelled": 0}
RECIPES = [name for name in NAMES if name != "digits"]


@pytest.mark.parametrize(("length", "of", "expected"), [(0.75, 32, 24), (0.875, 256, 224), (3 / 7, 224, 96)])
def test_a_share_follows_the_length_that_it_refers_to(length: float, of: int, expected: int) -> None:
    assert px(length, of) == expected
    assert px(expected, 7 * of) == expected
    assert px(1.0, of) == of
    assert px(0.01, of) == 8


@pytest.mark.parametrize("value", [0, -1, 1.5, 7, 1025, 24.5, float("inf"), float("nan"), "x"])
def test_other_lengths_are_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"finetune\.view_size"):
        override(Config(), {"finetune": {"view_size": value}})


def test_px_stay_whole_numbers() -> None:
    views = Finetune(view_size=24.0)
    assert (
        json.dumps(views.settings(64)["view_size"])
        == json.dumps(Finetune(view_size=0.375).settings(64)["view_size"])
        == "24"
    )
    assert "24.0" not in views.model_dump_json()


def test_requests_have_lengths_in_px_and_leave_out_later_fields() -> None:
    settings = SwAV(view_size=0.875, small_size=3 / 7).settings(256)
    assert (settings["view_size"], settings["small_size"]) == (224, 96)
    assert SwAV().settings(256)["small_size"] is None
    assert not Views.later & settings.keys()
    assert SwAV(turn=0.75).settings(256)["turn"] == 0.75


@pytest.mark.parametrize(
    ("low", "high", "side"), [(0.2, 1.0, 64), (0.3, 1.0, 32), (0.05, 0.14, 256), (0.5, 0.9, 96)]
)
def test_the_ratio_is_that_of_the_crops_that_are_drawn(low: float, high: float, side: int) -> None:
    views = Views(crop_min=low, crop_max=high, view_size=0.75)
    stored = stored_size(side)
    boxes = crop_boxes(np.random.default_rng(0).random((20_000, 22)), stored, low, high)
    in_training = views.side(side) / np.sqrt(boxes[:, 2] * boxes[:, 3])
    assert ratio(views, side) * in_training.mean() == pytest.approx(1, abs=0.12)
    assert ratio(Views(crop_min=1, view_size=side), side) == stored / side


@pytest.mark.parametrize("name", NAMES)
def test_named_recipes_fit_without_a_note(name: str) -> None:
    assert notes(recipe(name)) == []
    assert override(recipe(name), {}) == recipe(name)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("size", [48, 64, 96, 224])
def test_a_recipe_follows_another_image_size(name: str, size: int) -> None:
    config = override(recipe(name), {"data": {"image_size": size}})
    before, after = recipe(name), config
    for section in ("pretext", "transfer", "finetune", "distill"):
        old, new = getattr(before, section), getattr(after, section)
        if isinstance(old, Views):
            assert 0.8 < ratio(new, size) / ratio(old, before.data.image_size) < 1.25
    assert notes(config) == []


def test_cifar10_at_64_px_is_what_a_stranger_asks_for() -> None:
    config = override(recipe("cifar10"), {"data": {"image_size": 64}})
    for section in (config.pretext, config.transfer, config.finetune, config.distill):
        assert section.settings(64)["view_size"] == 48
        assert section.settings(32)["view_size"] == 24


def test_views_of_another_scale_are_refused_with_the_figure(tmp_path: Path) -> None:
    over = {
        "data": {"image_size": 64},
        **{s: {"view_size": 24} for s in ("pretext", "transfer", "finetune", "distill")},
    }
    with pytest.raises(
        ConfigError, match=r"finetune\.view_size: .*at 24 px, .* 2\.45 times the size .*set finetune"
    ) as error:
        override(recipe("cifar10"), over)
    assert "\n" not in str(error.value)
    path = tmp_path / "mine.yaml"
    values = yaml.safe_load(plain(recipe("cifar10")))
    for section in ("pretext", "transfer", "finetune", "distill"):
        values[section]["view_size"] = 24
    path.write_text(yaml.safe_dump({**values, "data": {**values["data"], "image_size": 64}}))
    with pytest.raises(ConfigError, match=r"pretext\.view_size: .*2\.36 times the size"):
        override(recipe(str(path)), {})
    shares = {s: {"view_size": 0.92} for s in ("pretext", "transfer", "finetune", "distill")}
    assert notes(override(recipe(str(path)), shares)) == []


def test_the_advice_that_a_refusal_gives_is_followed_without_a_note() -> None:
    for key, over in (("view_size", {"view_size": 10}), ("crop_max", {"crop_min": 0.05, "crop_max": 0.1})):
        with pytest.raises(ConfigError) as error:
            override(recipe("cifar10"), {"finetune": over})
        assert f"finetune.{key}" in str(error.value)
        share = float(str(error.value).partition("set finetune.view_size=")[2].partition(",")[0])
        assert notes(override(recipe("cifar10"), {"finetune": {**over, "view_size": share}})) == []


def test_a_scale_that_is_somewhat_off_is_said() -> None:
    config = override(recipe("cifar10"), {"finetune": {"view_size": 16}})
    assert NOTED[1] < ratio(config.finetune, 32) < REFUSED[1]
    said = [line for line in describe(config, {"counts": COUNTS}) if "times the size" in line]
    assert len(said) == 1
    assert said[0].startswith("note: finetune.view_size:")
    assert "1.61 times the size" in said[0]


def test_stages_that_a_run_leaves_out_are_not_checked() -> None:
    over = {"until": "transfer", "distill": {"view_size": 8}}
    assert override(recipe("cifar10"), over).until == "transfer"
    with pytest.raises(ConfigError, match=r"distill\.view_size"):
        override(recipe("cifar10"), {"distill": {"view_size": 8}})
