"""From a configuration to the method that trains it. Imports torch only when it does."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from models.configs import Teacher
from models.method import Method


def trainer(path: str) -> Any:
    """What `module:class` names, the `trainer` of a configuration."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


def make_pretext(config: Teacher, image_size: int, seed: int) -> Method:
    """The method that `config` belongs to, with fresh weights.

    Args:
        config: of a pretext method that trains a network.
        image_size: side of the images, px.
        seed: of all weights, and of a method's own tables.

    Raises:
        ConfigError: the images are too small for the method or its backbone.
    """
    method: Method = trainer(config.trainer)(config, image_size, seed)
    return method
