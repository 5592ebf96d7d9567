"""A configuration as YAML: plain, with an explanation of each key, or only the keys that differ.

The command `run` accepts all three forms, and reads the same configuration from each.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator
from typing import Any

import yaml

from data.types import Frozen
from flows.recipes import NAMES, by_hand, laid_over, recipe
from flows.settings import sentence_on, settings
from tasks.config import Config
from tasks.overlay import METHOD_SECTIONS, merge, methods

COLUMNS = 100
"""Maximum width of the comments, in characters. A line with a key and its value may be longer."""

Values = dict[str, Any]
"""A configuration, or a part of one, as nested dicts of JSON values."""


def plain(config: Config) -> str:
    """The whole configuration as YAML without comments."""
    return _dump(_json(config))


def explained(config: Config) -> str:
    """The whole configuration as YAML. A comment above each key says what it does and accepts."""
    lacking = (
        f"Keys that it lacks are those of the recipe {config.recipe}."
        if config.recipe in NAMES
        else "Keys that it lacks have the defaults of docs/settings.md."
    )
    head = f"All keys of a configuration, as `knowledge-transfer run FILE` takes it. Empty is null. {lacking}"
    return "\n".join([*_comment(head, ""), *_lines(config, _json(config), {}, "")]) + "\n"


def changed(config: Config, against: str | None, comments: bool = True) -> str:
    """The keys in which a configuration differs from a recipe or from the defaults, as YAML.

    Args:
        config: the configuration.
        against: the name of the recipe to compare it with; None: the defaults of each section and method.
        comments: whether to explain the keys and what they are compared with.
    """
    if against is None:
        base = _defaults(config)
        over = _methods_named(_difference(base, _json(config)), config)
        what = "the defaults of each section and method"
    else:
        over, base = _changes(config, recipe(against))
        what = f"the recipe {against}"
    over = _ordered(config, {"recipe": config.recipe, **over})
    if not comments:
        return _dump(over)
    head = f"Compared with {what}. Only keys that differ are here; `instead of` gives the value there."
    return "\n".join([*_comment(head, ""), *_lines(config, over, base, "")]) + "\n"


def _dump(values: Values) -> str:
    return str(yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120))


def _json(model: Frozen) -> Values:
    values: Values = json.loads(model.model_dump_json())
    return values


def _defaults(config: Config) -> Values:
    """The defaults of all sections, and of the configuration's own methods."""
    base = _json(Config())
    for section in METHOD_SECTIONS:
        base[section] = _method_defaults(section, getattr(config, section).method)
    return base


def _method_defaults(section: str, method: str) -> Values:
    """The defaults of a method. Keys without a default are missing."""
    return {name: s.default for name, s in settings(methods(section)[method]).items() if not s.required} | {
        "method": method
    }


def _changes(config: Config, base: Config) -> tuple[Values, Values]:
    """The settings that turn `base` into `config` when they are laid over it, as those of a file are.

    Setting one key can reset others: another method brings its own defaults, for example. So the settings are
    laid over `base`, and what still differs is set as well, until nothing differs.

    Returns:
        The settings, and the values to compare them with. These are the values of `base` after the methods
        of `config` are chosen, but with the methods of `base`.
    """
    wanted, chosen = _json(config), {s: getattr(config, s).method for s in METHOD_SECTIONS}
    over: Values = {s: {"method": m} for s, m in chosen.items() if m != getattr(base, s).method}
    first: Values = {}
    while True:
        got = laid_over(base, over, by_hand(base, over))
        for section, value in _defaults(config).items():
            got[section] = _under(value, got[section]) if section in got else value
        missing = _difference(got, wanted)
        first = first or got
        if missing.keys() <= {"recipe"}:
            break
        more = merge(over, missing)
        assert more != over, f"{missing} can't be set"
        over = more
    without = first | {s: {**first[s], "method": getattr(base, s).method} for s in chosen}
    return _methods_named(over, config), without


def _under(base: Any, over: Any) -> Any:
    """Fill in the keys that `over` lacks with the values of `base`, section by section."""
    if not (isinstance(base, dict) and isinstance(over, dict)):
        return over
    return base | {name: _under(base.get(name), value) for name, value in over.items()}


def _methods_named(over: Values, config: Config) -> Values:
    """Add the method to each section that has keys of a method. Without it they have no meaning."""
    named = {s: {"method": getattr(config, s).method, **over[s]} for s in METHOD_SECTIONS if s in over}
    return {**over, **named}


def _difference(base: Values, wanted: Values) -> Values:
    """The values of `wanted` that `base` does not have. A section is compared key by key."""
    found: Values = {}
    for name, value in wanted.items():
        if isinstance(value, dict) and isinstance(base.get(name), dict):
            if inner := _difference(base[name], value):
                found[name] = inner
        elif name not in base or value != base[name]:
            found[name] = value
    return found


def _ordered(model: Frozen, values: Values) -> Values:
    """The values in the order of the model's fields."""
    found = {}
    for name in type(model).model_fields:
        if name in values:
            below = getattr(model, name)
            found[name] = _ordered(below, values[name]) if isinstance(below, Frozen) else values[name]
    return found


def _lines(model: Frozen, values: Values, instead: Values, above: str) -> Iterator[str]:
    """Lines of YAML with their comments.

    Args:
        model: the configuration, or one of its sections.
        values: what is shown of it, in the order of the model's fields.
        instead: the values to compare with. A key that it lacks is shown without a comparison.
        above: the section's dotted key with a dot at its end; empty for the configuration.
    """
    indent, known = "  " * above.count("."), settings(type(model), above)
    for name, value in values.items():
        if not above:
            yield ""
        below = getattr(model, name)
        if isinstance(below, Frozen):
            told = type(model).model_fields[name].description or sentence_on(type(below))
            yield from (*_comment(told, indent), f"{indent}{name}:")
            yield from _lines(below, value, instead.get(name, {}), f"{above}{name}.")
            continue
        yield from _comment(known[name].sentence, indent)
        differs = name in instead and instead[name] != value and f"{above}{name}" != "recipe"
        yield f"{indent}{name}: {_flow(value)}" + (
            f"  # instead of {_flow(instead[name])}" if differs else ""
        )


def _comment(text: str, indent: str) -> list[str]:
    start = f"{indent}# "
    whole = re.sub(r"(?<=\d) to (?=\d)", "\u00a0to\u00a0", text)  # a range stays in one line
    lines = textwrap.wrap(
        whole,
        COLUMNS,
        initial_indent=start,
        subsequent_indent=start,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace("\u00a0", " ") for line in lines]


def _flow(value: Any) -> str:
    """A value as YAML in one line."""
    for style in (None, '"'):  # only double-quoted text can have a line break within one line
        text: str = yaml.safe_dump(
            value, allow_unicode=True, default_flow_style=True, default_style=style, width=float("inf")
        )
        text = text.removesuffix("\n").removesuffix("\n...")
        if "\n" not in text:
            break
    return text
