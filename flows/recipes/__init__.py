"""Named settings. One file each: a header that says what it is for, what it needs and what it gives, and a `Config`."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import yaml

from data.errors import ConfigError
from tasks.config import Config, merge, resolve

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


def recipe(name: str) -> Config:
    """A recipe by name, or the configuration in a YAML file.

    Raises:
        ConfigError: if there is no such recipe or file, or the file is not a configuration.
    """
    if name in NAMES:
        config: Config = importlib.import_module(f"flows.recipes.{name.replace('-', '_')}").CONFIG
        return config.model_copy(update={"recipe": name})
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"recipe {name!r} is not known; choose one of {', '.join(NAMES)}, or give a .yaml file")
    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"recipe file {name!r} can't be read: {reason}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"recipe file {name!r} holds no configuration; `show digits` prints one")
    return resolve(values if values.get("recipe") else {**values, "recipe": path.stem})


def override(config: Config, over: dict[str, Any]) -> Config:
    """Lay the given keys over a configuration.

    Raises:
        ConfigError: naming the key, the value and what is allowed.
    """
    return resolve(merge(config.model_dump(), over))


def parse_settings(settings: list[str]) -> dict[str, Any]:
    """`["cluster.k=50", "data.test=null"]` as nested dicts; values are YAML.

    Raises:
        ConfigError: if one has no `=`, or a value is not YAML.
    """
    out: dict[str, Any] = {}
    for setting in settings:
        key, sign, text = setting.partition("=")
        if not sign or not key:
            raise ConfigError(f"--set {setting!r}: write it as section.key=value, for example --set cluster.k=50")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            value = text
        *path, last = key.strip().split(".")
        inner = out
        for name in path:
            below = inner.setdefault(name, {})
            if not isinstance(below, dict):
                raise ConfigError(f"--set {setting!r}: {name} has been given a value already")
            inner = below
        inner[last] = value
    return out
