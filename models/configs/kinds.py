"""Kinds of pictures, and the views that suit each of them.

A network learns to ignore what its views change. So a view must not change what tells the classes apart: the
mirror image of a letter is another letter, and the colour of a stained cell names the cell. A kind says which
changes leave the meaning of an image as it is.

Strong views are for methods that learn from the views alone (pretext). Mild views are for stages that learn
labels, pseudo-labels or a teacher's output. The numbers of photographs and symbols come from the recipes
`cifar10` and `digits`; docs/decisions/0017-scales-and-kinds.md has the reasons for the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from models.configs.shared import Sized, Teacher, Views

KindName = Literal["photographs", "symbols", "microscopy", "satellite", "grey", "drawings"]

GEOMETRY = frozenset({"flip", "turn", "rotate", "shear", "shift", "zoom", "stretch", "uncovered"})
"""The fields of `Views` that move pixels without choosing a part of the image."""

_PLAIN: dict[str, Any] = {
    "crop_max": 1.0,
    "flip": 0.0,
    "turn": 0.0,
    "rotate": 0.0,
    "shear": 0.0,
    "shift": 0.0,
    "zoom": 1.0,
    "stretch": 1.0,
    "uncovered": "black",
    "jitter": 0.0,
    "jitter_probability": 0.8,
    "grey": 0.0,
    "noise": 0.0,
}
"""A view that only crops. Every family starts from it, so every family sets all of these fields."""
_SHARP: dict[str, Any] = {
    "blur": 0.0,
    "second_blur": 0.0,
    "small_blur": None,
    "solarize": 0.0,
    "second_solarize": 0.0,
}
"""No blur and no solarising. Photographs keep the recipe's, because both are usual for large photographs."""
_WHOLE: dict[str, Any] = {
    "crop_min": 1.0,
    "view_size": 1.0,
    "uncovered": "edge",
    "small_crop_min": 0.3,
    "small_crop_max": 0.6,
}
"""For shapes that a crop would cut. The whole image moves, and its background continues beyond its edge.
Without crops, only a view as large as the image shows it at the test's scale."""
_THIRD: dict[str, Any] = {"crop_min": 0.3, "view_size": 0.875}
_HALF: dict[str, Any] = {"crop_min": 0.5, "view_size": 0.875}
"""Crops of at least 0.3 or at least half of the image, in views that show them at the test's scale."""
_SQUARE: dict[str, Any] = {"flip": 0.5, "turn": 0.75}
"""The eight symmetries of a square, equally likely. They need no resampling and leave no black corners."""


@dataclass(frozen=True)
class Family:
    """The views that suit a kind of pictures.

    Attributes:
        sentence: what the views change, for users.
        strong: field of `Views` or `SmallCrops` -> value, for methods that learn from the views alone.
        mild: field -> value, for the stages that learn labels, pseudo-labels or a teacher's output.
    """

    sentence: str
    strong: dict[str, Any]
    mild: dict[str, Any]


FAMILIES: dict[KindName, Family] = {
    "photographs": Family(
        "left-right flips, crops and changes of colour",
        strong=_PLAIN | {"crop_min": 0.2, "view_size": 0.75, "flip": 0.5, "jitter": 0.5, "grey": 0.2},
        mild=_PLAIN | {"crop_min": 0.3, "view_size": 0.75, "flip": 0.5, "jitter": 0.3},
    ),
    "symbols": Family(
        "small shifts, rotations and distortions; no flips, no crops, no changes of colour",
        strong=_PLAIN
        | _SHARP
        | _WHOLE
        | {"rotate": 20.0, "shear": 15.0, "shift": 0.15, "zoom": 1.4, "stretch": 1.25, "noise": 0.1},
        mild=_PLAIN
        | _SHARP
        | _WHOLE
        | {"rotate": 15.0, "shear": 10.0, "shift": 0.1, "zoom": 1.25, "stretch": 1.15, "noise": 0.05},
    ),
    "microscopy": Family(
        "all flips and quarter turns, crops, and slight changes of colour, because stains have a meaning",
        strong=_PLAIN | _SHARP | _SQUARE | _THIRD | {"jitter": 0.25},
        mild=_PLAIN | _SHARP | _SQUARE | _HALF | {"jitter": 0.1},
    ),
    "satellite": Family(
        "all flips and quarter turns, crops and moderate changes of colour",
        strong=_PLAIN | _SHARP | _SQUARE | _THIRD | {"jitter": 0.4, "grey": 0.1},
        mild=_PLAIN | _SHARP | _SQUARE | _HALF | {"jitter": 0.2},
    ),
    "grey": Family(
        "crops, small rotations, and changes of brightness and contrast; no flips, because sides may matter",
        strong=_PLAIN | _SHARP | _THIRD | {"rotate": 10.0, "uncovered": "edge", "jitter": 0.5},
        mild=_PLAIN | _SHARP | _HALF | {"rotate": 5.0, "uncovered": "edge", "jitter": 0.25},
    ),
    "drawings": Family(
        "shifts, zooms and small rotations; no flips, no crops, no changes of colour",
        strong=_PLAIN
        | _SHARP
        | _WHOLE
        | {"rotate": 20.0, "shear": 10.0, "shift": 0.15, "zoom": 1.5, "stretch": 1.25},
        mild=_PLAIN
        | _SHARP
        | _WHOLE
        | {"rotate": 10.0, "shear": 5.0, "shift": 0.1, "zoom": 1.25, "stretch": 1.1},
    ),
}
"""The family of views of each kind."""


def views_of(kind: KindName, model: type[Sized]) -> dict[str, Any]:
    """The views of a kind, as far as a stage has them.

    A method that learns from something other than invariance to its views, such as colorization, gets only
    the geometry of the strong views. Their other changes would hide what it predicts.

    Args:
        kind: the kind of pictures.
        model: the configuration of the stage or method. If it has no views, the result is empty.

    Returns:
        Field -> value.
    """
    if not issubclass(model, Views):
        return {}
    if not issubclass(model, Teacher):
        family = FAMILIES[kind].mild
    elif model.invariant:
        family = FAMILIES[kind].strong
    else:
        family = {name: value for name, value in FAMILIES[kind].strong.items() if name in GEOMETRY}
    return {name: value for name, value in family.items() if name in model.model_fields}
