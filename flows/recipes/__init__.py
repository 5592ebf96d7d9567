"""Recipes: named configurations, one per file.

Each file defines `CONFIG`. Its docstring says what the recipe is for and what it needs.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from data.errors import ConfigError
from models.configs.kinds import FAMILIES
from tasks.config import SECTIONS, Config
from tasks.overlay import METHOD_SECTIONS, TOGETHER, given, merge, resolve, shared, suit_kind
from tasks.scales import refuse

NAMES: tuple[str, ...] = (
    "digits",
    "photos",
    "cifar10",
    "bccd",
    "penn-fudan",
    "imagenet-paper",
    "simclrv2-imagenet",
    "momentum2-imagenet",
    "swav-imagenet",
    "s2bnn-imagenet",
)
PLANNED = "photos"
"""The recipe whose settings follow from `plan.minutes`."""


QUICK: dict[str, Any] = {"evaluate.protocols": ["few-label"], "finetune.baseline": False}
"""What `--quick` sets: no evaluations beyond the accuracy of the networks that the chain trains on the few
labels, and no baseline from scratch.
"""


def recipe(name: str) -> Config:
    """Load a recipe by name, or a configuration from a YAML file.

    If the file's key `recipe` is a name in `NAMES`, the file's other keys are laid over this recipe. Any
    other text is a label, and keys that the file lacks have their defaults.

    Raises:
        ConfigError: there is no such recipe or file, or the file is not a configuration.
    """
    if name in NAMES:
        config: Config = importlib.import_module(f"flows.recipes.{name.replace('-', '_')}").CONFIG
        return config.model_copy(update={"recipe": name})
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        raise ConfigError(
            f"recipe {name!r} is not known; choose one of {', '.join(NAMES)}, or give a .yaml file"
        )
    try:
        values = _read_yaml(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"recipe file {name!r} can't be read: {reason}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"recipe file {name!r} is not a configuration; `show digits` prints an example")
    strange = [key for key in values if not isinstance(key, str)]
    if strange:
        raise ConfigError(f"recipe file {name!r}: the key {strange[0]!r} is not a name")
    base = values.get("recipe")
    if base in NAMES:
        own = recipe(base)
        return resolve(laid_over(own, values, by_hand(own, values)))
    like = get_close_matches(str(base), NAMES, n=1, cutoff=0.8)
    if like and not set(SECTIONS) <= values.keys():
        raise ConfigError(
            f"recipe file {name!r} has recipe: {base}, which is no recipe, and not all sections; write "
            f"recipe: {like[0]} to take the rest from that recipe, or choose a label that is less like it"
        )
    named = values if base else {**values, "recipe": path.stem}
    return resolve(suit_kind(named, named))


def override(config: Config, over: dict[str, Any]) -> Config:
    """Change the given keys of a configuration.

    Raises:
        ConfigError: a key or value is not allowed; the message names the key, the value and what is allowed.
    """
    return _checked(resolve(laid_over(config, over)))


def laid_over(config: Config, over: dict[str, Any], own: Iterable[str] | None = None) -> dict[str, Any]:
    """A configuration with other values for the given keys, before it is checked, as nested dicts.

    Args:
        config: the configuration.
        over: the keys that change, as nested dicts.
        own: dotted keys that a plan must leave as they are; None: all of `over`.

    Raises:
        ConfigError: there are minutes for a plan, but the recipe has fixed settings.
    """
    merged = merge(given(config), _all_labels(over))
    plan = merged.get("plan", {})
    if isinstance(plan, dict) and plan.get("minutes") is not None:
        if config.recipe in NAMES and config.recipe != PLANNED:
            raise ConfigError(
                f"plan.minutes = {plan['minutes']}, but the recipe {config.recipe} has fixed settings; "
                f"use the recipe {PLANNED}, which is planned for the minutes given"
            )
        kept = {key for key in (leaves(over) if own is None else own) if not key.startswith("plan.")}
        merged["plan"] = {**plan, "keep": sorted(kept | set(plan.get("keep", ())) | set(config.plan.keep))}
    return suit_kind(merged, over)


def leaves(values: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """Yield the dotted keys of nested dicts."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{above}{name}.")
        else:
            yield f"{above}{name}"


def by_hand(config: Config, values: Mapping[str, Any]) -> set[str]:
    """The dotted keys that a file sets by hand: those whose values differ from the configuration's.

    A file that `show` has written names every key, and most of them nobody has changed. If the file chooses
    another method, its values are compared with what that method has by itself.

    Args:
        config: the configuration that the file starts from.
        values: the file's values, as nested dicts.
    """
    chosen = {
        section: {"method": values[section]["method"]}
        for section in METHOD_SECTIONS
        if isinstance(values.get(section), Mapping)
        and values[section].get("method") not in (None, getattr(config, section).method)
    }
    try:
        usual = resolve(merge(given(config), chosen))
    except ConfigError:  # the method has keys that must be given
        usual = config
    return {*leaves(chosen), *_differing(usual.model_dump(mode="json"), values)}


def _differing(base: Mapping[str, Any], values: Mapping[str, Any], above: str = "") -> Iterator[str]:
    for name, value in values.items():
        usual = base.get(name)
        if isinstance(value, Mapping) and isinstance(usual, Mapping):
            yield from _differing(usual, value, f"{above}{name}.")
        elif value != usual:
            yield from leaves({name: value}, above)


def planned(config: Config, settings: Mapping[str, Any]) -> Config:
    """Apply a part of a plan. Keys that the user set stay as they are.

    Args:
        config: the configuration, whose `plan.keep` names the user's keys.
        settings: the plan's settings by dotted key.

    Raises:
        ConfigError: a planned value does not fit to one of the user's.
    """
    over: dict[str, Any] = {}
    for key, value in settings.items():
        nest(over, key, value)
    kept: dict[str, Any] = {}
    for key in (*config.plan.keep, *settings):
        nest(kept, key, settings.get(key))
    return _checked(resolve(suit_kind(merge(given(config), over), kept)))


def _checked(config: Config) -> Config:
    """Refuse what no images could make right.

    Raises:
        ConfigError: test and training would see objects at different scales, or the kind of pictures is to
            be chosen by a plan and there is none.
    """
    if config.data.kind == "auto" and config.plan.minutes is None:
        known = ", ".join(FAMILIES)
        raise ConfigError(f"data.kind = auto: recipe {config.recipe!r} makes no plan; choose one of {known}")
    refuse(config)
    return config


def switched(config: Config) -> list[str]:
    """Sentences on methods that differ from the recipe's: what they keep of it, and what is their own."""
    if config.recipe not in NAMES:
        return []
    lines, own = [], recipe(config.recipe)
    for section in ("pretext", "transfer"):
        old, new = getattr(own, section), getattr(config, section)
        if old.method == new.method:
            continue
        same = [name for name in shared(type(old), type(new)) if name in old.model_fields_set]
        kept = [name for name in same if getattr(old, name) == getattr(new, name)]
        usual = type(new).model_fields
        default = [name for name in TOGETHER if name in usual and getattr(new, name) == usual[name].default]
        phrases = [f"keeps the recipe's {', '.join(kept)}"] if kept else []
        phrases += [f"{', '.join(default)} are the defaults of {new.method}"] if default else []
        if phrases:
            lines.append(f"note: {section}.method={new.method} {'; '.join(phrases)}")
    return lines


def borrowed_test(config: Config) -> list[str]:
    """A sentence if a run trains on other images than its recipe, but is tested on the recipe's."""
    if config.recipe not in NAMES:
        return []
    own, data = recipe(config.recipe).data, config.data
    if own.test is None or data.train == own.train or data.test != own.test:
        return []
    return [
        f"note: data.train is {data.train}, but the test images are still those of the recipe "
        f"{config.recipe}: data.test={data.test}. To test on a part of your own images, set data.test=null "
        "(in a deployment, the parameter test: none)"
    ]


def keeps_draw(config: Config) -> bool:
    """Whether the draw of labels is the one of the recipe that the configuration names."""
    if config.recipe not in NAMES:
        return False
    own = recipe(config.recipe).data
    data = config.data
    return (own.labels_per_class, own.label_fraction) == (data.labels_per_class, data.label_fraction)


def _all_labels(over: dict[str, Any]) -> dict[str, Any]:
    """Use all labels if the user brings labels or unlabelled images of their own and asks for no draw."""
    data = over.get("data")
    if not isinstance(data, dict) or {"labels_per_class", "label_fraction"} & data.keys():
        return over
    if data.get("labels") is None and data.get("unlabelled") is None:
        return over
    return {**over, "data": {**data, "labels_per_class": None, "label_fraction": None}}


def parse_settings(settings: list[str]) -> dict[str, Any]:
    """Parse settings such as `["cluster.k=50", "data.test=null"]` into nested dicts.

    Values are YAML. A value that is not valid YAML is taken as text.

    Raises:
        ConfigError: a setting has no `=`, or a key is below another key that already has a value.
    """
    out: dict[str, Any] = {}
    for setting in settings:
        key, sign, text = setting.partition("=")
        if not sign or not key:
            raise ConfigError(
                f"--set {setting!r}: write it as section.key=value, for example --set cluster.k=50"
            )
        try:
            value = _read_yaml(text)
        except (yaml.YAMLError, RecursionError):
            value = text
        try:
            nest(out, key.strip(), value)
        except ConfigError as error:
            raise ConfigError(f"--set {setting!r}: {error}") from None
    return out


def quick(over: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Add the settings of `QUICK` to a user's own, which win.

    Args:
        over: the user's settings, as nested dicts.

    Returns:
        All settings, and a line that names the added ones.
    """
    out, added = dict(over), []
    for key, value in QUICK.items():
        section, _, name = key.partition(".")
        given = out.get(section, {})
        if isinstance(given, dict) and name not in given:
            out[section] = {**given, name: value}
            added.append(f"{key}={json.dumps(value)}")
    return out, f"quick: sets {' and '.join(added)}" if added else "quick: your settings have all its keys"


class _Loader(yaml.SafeLoader):
    """Safe YAML without aliases, which can describe values that contain themselves or fill the memory."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not allowed; write the value again")
        return super().compose_node(parent, index)


def _read_yaml(text: str) -> Any:
    return yaml.load(text, _Loader)  # derived from SafeLoader


def nest(out: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key in nested dicts. If the old and the new value are dicts, they are merged.

    Raises:
        ConfigError: a part of the key already has a value that is not a dict.
    """
    *path, last = key.split(".")
    inner = out
    for name in path:
        below = inner.setdefault(name, {})
        if not isinstance(below, dict):
            raise ConfigError(f"{name} already has a value")
        inner = below
    known = inner.get(last)
    inner[last] = {**known, **value} if isinstance(known, dict) and isinstance(value, dict) else value
