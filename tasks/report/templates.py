"""The HTML templates of this folder."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files

from jinja2 import Environment, StrictUndefined, Template


def load(name: str, filters: dict[str, Callable[..., str]]) -> Template:
    """Read a template. What it is given is escaped, and a name that it is not given is an error.

    Args:
        name: the file's name.
        filters: name in the template -> function.
    """
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    return environment.from_string(files(__package__).joinpath(name).read_text(encoding="utf-8"))
