"""Another method keeps what both methods have; the optimizer and its rate go together."""

from __future__ import annotations

from typing import Any

import pytest

from flows.recipes import NAMES, override, recipe, switched
from models.configs import PRETEXT, TRANSFER
from models.configs.byol import BYOL
from models.configs.dino import DINO
from models.configs.hog import HOG
from models.configs.jigsaw import JigsawPlusPlus
from models.configs.shared import Optimization, Teacher, Views
from models.configs.simclr import SimCLR
from models.configs.swav import SwAV
from tasks.config import Config
from tasks.overlay import TOGETHER, given, merge, resolve, shared

KEPT = (
    "backbone",
    "width",
    "epochs",
    "batch_size",
    "view_size",
    "crop_min",
    "flip",
    "jitter",
    "jitter_probability",
    "grey",
)
"""What the recipe cifar10 sets of its teacher that any method with views has."""
CHANGES = [name for name, model in PRETEXT.items() if issubclass(model, Views) and name != "simclr"]


@pytest.mark.parametrize("method", CHANGES)
def test_another_method_keeps_what_the_recipe_set_of_both(method: str) -> None:
    base, config = recipe("cifar10"), override(recipe("cifar10"), {"pretext": {"method": method}})
    own: Any = PRETEXT[method]()
    assert config.pretext.method == method
    for name in KEPT:
        assert getattr(config.pretext, name) == getattr(base.pretext, name)
    for name in type(own).model_fields.keys() - set(KEPT):
        assert getattr(config.pretext, name) == getattr(own, name), name
    assert {name: getattr(config, name) for name in ("transfer", "finetune", "distill", "student")} == {
        name: getattr(base, name) for name in ("transfer", "finetune", "distill", "student")
    }


def test_the_users_values_win_over_the_recipes() -> None:
    over = {"pretext": {"method": "swav", "optimizer": "sgd", "epochs": 3, "crop_min": 0.5}}
    pretext: Any = override(recipe("cifar10"), over).pretext
    assert (pretext.optimizer, pretext.epochs, pretext.crop_min, pretext.width) == ("sgd", 3, 0.5, 1.5)
    assert (pretext.learning_rate, pretext.warmup) == (SwAV().learning_rate, SwAV().warmup)
    earlier = override(recipe("cifar10"), {"pretext": {"width": 0.5, "learning_rate": 0.3}})
    later: Any = override(earlier, {"pretext": {"method": "moco"}}).pretext
    assert (later.width, later.learning_rate) == (0.5, PRETEXT["moco"]().learning_rate)  # type: ignore[attr-defined]


def test_defaults_of_the_old_method_are_not_kept() -> None:
    config = override(Config(), {"pretext": {"method": "swav"}})
    assert config.pretext == SwAV()
    assert override(config, {"pretext": {"method": "simclr"}}) == Config()


def test_what_two_methods_share() -> None:
    fields = set(shared(SimCLR, DINO))
    assert {"backbone", "width", "epochs", "batch_size", "view_size", "crop_min", "flip", "turn"} <= fields
    assert not fields & {"method", "temperature", "projection", "momentum", *TOGETHER}
    assert not fields & {"blur", "solarize"}  # of the first view only, in DINO
    assert {"small_size", "small_crops"} <= set(shared(SwAV, DINO))
    assert {"blur", "second_blur"} <= set(shared(BYOL, DINO))
    assert set(shared(SimCLR, JigsawPlusPlus)) == set(Teacher.model_fields) - {"method"}
    assert shared(SimCLR, HOG) == []
    assert set(shared(TRANSFER["pseudo-labels"], TRANSFER["seed"])) == {
        "steps",
        "epochs",
        "batch_size",
    } | set(Views.model_fields)


def test_a_method_without_a_network_keeps_nothing_and_gives_nothing_back() -> None:
    config = override(recipe("cifar10"), {"pretext": {"method": "hog"}})
    assert config.pretext == HOG()
    assert override(config, {"pretext": {"method": "simclr"}}).pretext == SimCLR()


def test_values_that_the_new_method_refuses_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    from pydantic import Field

    class Short(Views, Optimization, Teacher):
        epochs: int = Field(2, le=5)

    monkeypatch.setitem(PRETEXT, "short", Short)
    base = {"pretext": {"method": "simclr", "epochs": 100, "width": 0.5}}
    assert merge(base, {"pretext": {"method": "short"}})["pretext"] == {"method": "short", "width": 0.5}
    asked = merge(base, {"pretext": {"method": "short", "epochs": 100}})
    assert asked["pretext"]["epochs"] == 100  # the user's own value is refused, not dropped


@pytest.mark.parametrize("name", NAMES)
def test_what_somebody_set_describes_the_configuration(name: str) -> None:
    assert resolve(given(recipe(name))) == recipe(name)
    assert override(recipe(name), {}).model_fields_set == recipe(name).model_fields_set | {
        "pretext",
        "transfer",
    }


def test_the_run_says_what_a_new_method_keeps() -> None:
    assert switched(recipe("cifar10")) == []
    over = {"pretext": {"method": "swav", "width": 1.0, "weight_decay": 0.5}, "transfer": {"method": "seed"}}
    of_pretext, of_transfer = switched(override(recipe("cifar10"), over))
    assert of_pretext == (
        "note: pretext.method=swav keeps the recipe's backbone, epochs, batch_size, view_size, crop_min, "
        "flip, jitter, jitter_probability, grey; optimizer, learning_rate, warmup, schedule are the defaults "
        "of swav"
    )
    assert of_transfer.startswith(
        "note: transfer.method=seed keeps the recipe's epochs, batch_size, view_size"
    )
    assert switched(override(recipe("digits"), {"pretext": {"method": "hog"}})) == []
