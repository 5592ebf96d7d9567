"""Kinds of pictures: what each family must not do, and which keys win."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from data.errors import ConfigError
from data.kind import suggest
from flows.recipes import NAMES, PLANNED, override, recipe
from models.configs import PRETEXT, TRANSFER
from models.configs.evaluations import NonLinear
from models.configs.finetune import Finetune
from models.configs.kinds import FAMILIES, KindName, views_of
from models.configs.shared import Sized, Teacher, Views
from tasks.scales import notes
from tasks.understood import describe

MODELS: list[type[Sized]] = [*PRETEXT.values(), *TRANSFER.values(), Finetune, NonLinear]
COUNTS = {"train": 10, "unlabelled": 0, "test": 0, "labelled": 0, "test_labelled": 0}


def test_every_kind_has_a_family() -> None:
    assert set(FAMILIES) == set(get_args(KindName))
    assert suggest.__doc__


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_a_family_is_allowed_wherever_it_has_a_meaning(model: type[Sized], kind: KindName) -> None:
    views = views_of(kind, model)
    assert set(views) <= set(model.model_fields)
    assert bool(views) == issubclass(model, Views)
    needed = {"features": "parquet:x", "weights": "x.pth"}
    usual = {
        key: value
        for key, value in needed.items()
        if key in model.model_fields and model.model_fields[key].is_required()
    }
    if getattr(model, "invariant", True) or not views["turn"]:
        model.model_validate({**usual, **views})
    elif model.model_fields["method"].default == "rotation":  # nothing to learn if images have no upright
        with pytest.raises(ValueError, match="quarter turns"):
            model.model_validate(views)
    if issubclass(model, Teacher) and not model.invariant and views:
        assert not {"jitter", "grey", "crop_min"} & views.keys()


def test_families_keep_what_tells_the_classes_apart() -> None:
    for kind, family in FAMILIES.items():
        for views in (family.strong, family.mild):
            assert bool(views["flip"]) == (kind in ("photographs", "microscopy", "satellite"))
            assert bool(views["turn"]) == (kind in ("microscopy", "satellite"))
            assert views["rotate"] < 45
            if kind in ("symbols", "drawings"):
                assert (views["jitter"], views["grey"], views["crop_min"]) == (0, 0, 1)
        weaker = {"jitter", "grey", "rotate", "shear", "shift", "zoom", "stretch", "noise", "flip"}
        assert all(family.mild[name] <= family.strong[name] for name in weaker)
        assert family.mild["crop_min"] >= family.strong["crop_min"]
        assert family.mild.keys() == family.strong.keys()


def test_choosing_another_kind_leaves_nothing_of_the_former() -> None:
    once = override(recipe("cifar10"), {"data": {"kind": "satellite"}})
    twice = override(
        override(recipe("cifar10"), {"data": {"kind": "symbols"}}), {"data": {"kind": "satellite"}}
    )
    assert once.pretext == twice.pretext
    assert once.distill == twice.distill


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("size", [16, 32, 64, 224])
def test_a_kind_leaves_the_scale_right(name: str, kind: KindName, size: int) -> None:
    config = override(recipe(name), {"data": {"kind": kind, "image_size": size}})
    assert notes(config) == []


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", FAMILIES)
def test_a_kind_chooses_the_views_of_all_stages(name: str, kind: KindName) -> None:
    config = override(recipe(name), {"data": {"kind": kind}})
    sections: dict[str, Any] = {
        "pretext": config.pretext,
        "transfer": config.transfer,
        "finetune": config.finetune,
        "distill": config.distill,
        "nonlinear": config.evaluate.nonlinear,
    }
    for section in sections.values():
        for field, value in views_of(kind, type(section)).items():
            assert getattr(section, field) == value, (section, field)
    assert config.predict.mirror == (recipe(name).predict.mirror and bool(FAMILIES[kind].mild["flip"]))
    assert override(config, {}) == config
    says = [line for line in describe(config, {"counts": COUNTS}) if line.startswith("kind: ")]
    assert says == [f"kind: data.kind={kind}, so views have {FAMILIES[kind].sentence}"]


def test_keys_that_the_user_sets_win_and_are_said() -> None:
    over = {
        "data": {"kind": "symbols"},
        "pretext": {"flip": 0.5, "method": "swav"},
        "evaluate": {"nonlinear": {"flip": 0.25}},
        "predict": {"mirror": True},
    }
    config = override(recipe("cifar10"), over)
    assert (config.pretext.flip, config.evaluate.nonlinear.flip) == (0.5, 0.25)  # type: ignore[attr-defined]
    assert config.predict.mirror
    assert config.finetune.flip == 0
    said = describe(config, {"counts": COUNTS})[-1]
    assert "set by hand: pretext.flip=0.5, evaluate.nonlinear.flip=0.25" in said


def test_a_kind_that_no_plan_chooses_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.kind = auto: .*choose one of photographs, symbols"):
        override(recipe("digits"), {"data": {"kind": "auto"}})
    with pytest.raises(ConfigError, match=r"data\.kind.* = 'sketches'"):
        override(recipe("digits"), {"data": {"kind": "sketches"}})


def test_without_a_kind_nothing_changes() -> None:
    fixed = [name for name in NAMES if name != PLANNED]
    assert len(fixed) == len(NAMES) - 1
    for name in fixed:
        assert override(recipe(name), {"data": {"kind": None}}) == recipe(name)
