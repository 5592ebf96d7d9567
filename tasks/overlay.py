"""Merge configurations, and turn validation errors into readable messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from data.errors import ConfigError
from data.types import Frozen
from models.configs import PRETEXT, TRANSFER
from tasks.config import Config

_EITHER = (("label_fraction", "labels_per_class"),)
"""Keys that exclude each other. Setting one of them resets the other."""


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Merge `over` into `base`, section by section.

    If `over` changes a section's `method`, the parameters of the old method are dropped.

    Args:
        base: a configuration as nested dicts.
        over: the keys that change.

    Returns:
        A new dict; neither argument is changed.
    """
    out = dict(base)
    for pair in _EITHER:
        given = [name for name in pair if over.get(name) is not None]
        if len(given) == 1:
            out.update({name: None for name in pair if name in base})
    for name, value in over.items():
        below = out.get(name)
        if isinstance(value, dict) and isinstance(below, dict):
            other_method = "method" in value and value["method"] != below.get("method")
            out[name] = dict(value) if other_method else merge(below, value)
        else:
            out[name] = value
    return out


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


_METHODS: dict[str, Mapping[str, type[Frozen]]] = {"pretext": PRETEXT, "transfer": TRANSFER}
METHOD_SECTIONS = tuple(_METHODS)
"""Sections whose keys depend on their `method`."""


def methods(section: str) -> Mapping[str, type[Frozen]]:
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
    message = e["msg"].removeprefix("Value error, ")
    return f"{key} = {e['input']!r}: {message[:1].lower()}{message[1:]}" if key else message


def _siblings(loc: tuple[int | str, ...], model: type[Frozen]) -> list[str]:
    if len(loc) <= 1:
        return list(model.model_fields)
    if model is not Config:
        return list(model.model_fields)
    annotation = Config.model_fields[str(loc[0])].annotation
    return list(getattr(annotation, "model_fields", {}))
