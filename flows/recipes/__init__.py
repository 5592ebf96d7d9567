"""Recipes: named configurations, one per file.

Each file defines `CONFIG`. Its docstring says what the recipe is for and what it needs.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import yaml

from data.errors import ConfigError
from tasks.config import Config
from tasks.overlay import merge, resolve

NAMES: tuple[str, ...] = (
    "digits",
    "cifar10",
    "bccd",
    "penn-fudan",
    "imagenet-paper",
    "simclrv2-imagenet",
    "momentum2-imagenet",
    "swav-imagenet",
    "s2bnn-imagenet",
)


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
    if values.get("recipe") in NAMES:
        return override(recipe(values["recipe"]), values)
    return resolve(values if values.get("recipe") else {**values, "recipe": path.stem})


def override(config: Config, over: dict[str, Any]) -> Config:
    """Change the given keys of a configuration.

    Raises:
        ConfigError: a key or value is not allowed; the message names the key, the value and what is allowed.
    """
    return resolve(laid_over(config, over))


def laid_over(config: Config, over: dict[str, Any]) -> dict[str, Any]:
    """A configuration with other values for the given keys, before it is checked, as nested dicts."""
    return merge(config.model_dump(), _all_labels(over))


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
