"""Merge configurations, and turn validation errors into readable messages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from inspect import get_annotations
from typing import Any

from pydantic import ValidationError

from data.errors import ConfigError
from data.types import Frozen
from models.configs import PRETEXT, TRANSFER
from models.configs.distill import Distill
from models.configs.evaluations import NonLinear
from models.configs.finetune import Finetune
from models.configs.kinds import FAMILIES, views_of
from models.configs.shared import (
    AsymmetricViews,
    Lasting,
    Optimization,
    Sized,
    SmallCrops,
    Teacher,
    Transfer,
    Views,
)
from tasks.config import Config

_EITHER = (("label_fraction", "labels_per_class"),)
"""Keys that exclude each other. Setting one of them resets the other."""
_SHARED = (AsymmetricViews, Views, SmallCrops, Lasting, Teacher, Transfer)
"""Bases whose fields mean the same in every method. If two bases have a field, the first one owns it."""
TOGETHER = tuple(Optimization.model_fields)
"""Fields that belong together: a learning rate suits one optimizer and one loss. Another method brings its
own."""


def given(config: Config) -> dict[str, Any]:
    """The keys of a configuration that somebody set, and the methods, as nested dicts.

    The other keys have their defaults, which depend on the method.
    """
    values: dict[str, Any] = config.model_dump(exclude_unset=True)
    for section in _METHODS:
        values.setdefault(section, {})["method"] = getattr(config, section).method
    return values


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Merge `over` into `base`, section by section.

    If `over` changes a section's `method`, the new method keeps the fields of `base` that it shares with the
    old one (`shared`). All other parameters of the old method are dropped.

    Args:
        base: a configuration as nested dicts. A field that it leaves out has the default of its method.
        over: the keys that change.

    Returns:
        A new dict; neither argument is changed.
    """
    out = dict(base)
    for pair in _EITHER:
        given = [name for name in pair if over.get(name) is not None]
        if len(given) == 1:
            out.update({name: None for name in pair if name in base})
    if over.get("epochs") is not None and base.get("steps") is not None:
        out["steps"] = None  # steps would win over the epochs that are asked for
    for name, value in over.items():
        below = out.get(name)
        if isinstance(value, dict) and isinstance(below, dict):
            other_method = "method" in value and value["method"] != below.get("method")
            if other_method:
                below = _kept(name, below, value["method"])
            out[name] = merge(below, value)
        else:
            out[name] = value
    return out


def shared(old: type[Sized], new: type[Sized]) -> list[str]:
    """Fields that mean the same in two methods: backbone, width, epochs, batch size, views and crops.

    Both methods inherit such a field from the same base. The optimizer, its rate and its schedule are not
    among them, because they suit one method only.

    Args:
        old: configuration of a method.
        new: configuration of another method.
    """
    return [name for name in new.model_fields if (base := _owner(new, name)) and base is _owner(old, name)]


def _owner(model: type[Sized], name: str) -> type[Frozen] | None:
    """The base that defines a shared field; None if the field is the method's own."""
    owners = (base for base in _SHARED if issubclass(model, base) and name in get_annotations(base))
    return None if name == "method" else next(owners, None)


def _kept(section: str, below: dict[str, Any], method: object) -> dict[str, Any]:
    """What another method of a section keeps of the old method's values, except for those that it refuses."""
    known, former = methods(section), below.get("method")
    if not (isinstance(method, str) and isinstance(former, str) and {method, former} <= known.keys()):
        return {}
    kept = {name: below[name] for name in shared(known[former], known[method]) if name in below}
    try:
        known[method].model_validate({"method": method, **kept})
    except ValidationError as error:
        refused = {e["loc"][0] for e in error.errors() if e["loc"]}
        kept = {name: value for name, value in kept.items() if name not in refused}
    return kept


def suit_kind(values: dict[str, Any], by_hand: dict[str, Any]) -> dict[str, Any]:
    """Give all stages the views that suit the kind of pictures, if `by_hand` chooses one.

    Args:
        values: a configuration as nested dicts.
        by_hand: keys that stay as they are in `values`. Its `data.kind` chooses the kind.

    Returns:
        A new dict. Without a kind, or if the kind is not known, it equals `values`.
    """
    data = by_hand.get("data")
    kind = data.get("kind") if isinstance(data, dict) else None
    if not isinstance(kind, str) or kind not in FAMILIES:
        return values
    out = dict(values)
    for section, model in _trainings(values):
        out = _suited(out, section.split("."), views_of(kind, model), by_hand)
    if not FAMILIES[kind].mild["flip"]:
        out = _suited(out, ["predict"], {"mirror": False}, by_hand)
    return out


def unlike_kind(config: Config) -> dict[str, Any]:
    """The keys that differ from the views of the configuration's kind: dotted key -> value."""
    kind = config.data.kind
    if kind is None or kind == "auto":
        return {}
    values, found = config.model_dump(), dict[str, Any]()
    for section, model in _trainings(values):
        inner = values
        for name in section.split("."):
            inner = inner[name]
        views = views_of(kind, model)
        found |= {f"{section}.{name}": inner[name] for name, value in views.items() if inner[name] != value}
    return found


def _trainings(values: dict[str, Any]) -> Iterator[tuple[str, type[Sized]]]:
    """The sections that train on the run's images, each with its configuration."""
    for section, known in _METHODS.items():
        chosen = values.get(section)
        method = chosen.get("method") if isinstance(chosen, dict) else None
        usual = getattr(Config(), section).method
        model = known.get(method if isinstance(method, str) else usual)
        if model is not None:
            yield section, model
    yield from (("finetune", Finetune), ("distill", Distill), ("evaluate.nonlinear", NonLinear))


def _suited(
    values: dict[str, Any], path: list[str], views: dict[str, Any], by_hand: object
) -> dict[str, Any]:
    """`values` with the given views at a path, except for those that are set by hand."""
    if not path:
        chosen = by_hand if isinstance(by_hand, dict) else {}
        return values | {name: value for name, value in views.items() if name not in chosen}
    below = values.get(path[0], {})
    if not isinstance(below, dict):  # the validation refuses it
        return values
    inner = by_hand.get(path[0]) if isinstance(by_hand, dict) else None
    return values | {path[0]: _suited(below, path[1:], views, inner)}


def resolve(values: dict[str, Any]) -> Config:
    """Validate a configuration given as nested dicts.

    Raises:
        ConfigError: the configuration is invalid. One line names the key, the value and the allowed values of
            each fault.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError("; ".join(_faults(error, values))) from None


_METHODS: dict[str, Mapping[str, type[Sized]]] = {"pretext": PRETEXT, "transfer": TRANSFER}
METHOD_SECTIONS = tuple(_METHODS)
"""Sections whose keys depend on their `method`."""


def methods(section: str) -> Mapping[str, type[Sized]]:
    """The configuration models of a section, by the value of their `method`."""
    return _METHODS[section]


def _faults(error: ValidationError, values: dict[str, Any]) -> list[str]:
    """One readable phrase per fault: the key as in `--set`, the value, what is allowed."""
    lines: list[str] = []
    for section in _METHODS:  # a union's errors name every branch, so check against the chosen one only
        if section not in values:
            continue
        given = values[section]
        if not isinstance(given, dict):
            lines.append(f"{section} = {given!r}: a section has keys, such as {section}.method")
            continue
        known = methods(section)
        method = given.get("method", "")
        chosen = known.get(method) if isinstance(method, str) else None
        if "method" not in given and len(known) > 1:
            lines.append(f"{section}.method is missing; choose one of {', '.join(known)}")
        elif chosen is None and "method" in given:
            lines.append(
                f"{section}.method = {given['method']!r} is not known; choose one of {', '.join(known)}"
            )
        elif chosen is not None:
            try:
                chosen.model_validate(given)
            except ValidationError as inner:
                lines += [_phrase((section, *e["loc"]), e, chosen) for e in inner.errors()]
    for e in error.errors():
        if e["loc"] and e["loc"][0] in _METHODS and len(e["loc"]) > 1:
            continue
        lines.append(_phrase(e["loc"], e, Config))
    return lines or [str(error)]


def _phrase(loc: tuple[int | str, ...], e: Any, model: type[Frozen]) -> str:
    key = ".".join(map(str, loc))
    if e["type"] == "extra_forbidden":
        siblings = _siblings(loc, model)
        section = ".".join(map(str, loc[:-1])) or "the configuration"
        return f"unknown key {key} = {e['input']!r}; {section} has {', '.join(siblings)}"
    if e["type"] == "missing":
        return f"{key} is missing"
    if e["type"] in {"list_type", "tuple_type"} and isinstance(e["input"], str | int | float):
        return f"{key} = {e['input']!r}: give a list, such as [{e['input']}]"
    message = e["msg"].removeprefix("Value error, ")
    return f"{key} = {e['input']!r}: {message[:1].lower()}{message[1:]}" if key else message


def _siblings(loc: tuple[int | str, ...], model: type[Frozen]) -> list[str]:
    if len(loc) <= 1:
        return list(model.model_fields)
    if model is not Config:
        return list(model.model_fields)
    annotation = Config.model_fields[str(loc[0])].annotation
    return list(getattr(annotation, "model_fields", {}))
