"""The sections of the configuration as parameters of a flow: what Prefect's forms show, and what counts.

A form sends every field that has a default. If a section's fields had defaults, opening the section would
replace the recipe's values. So the schema of a section has none, and each description says what the recipes
have. A field that is left empty is not sent, and keeps the recipe's value. A field that is set to null
becomes null.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from typing import Any

from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from flows.recipes import NAMES, recipe
from tasks.config import Config

SHOWN = 60
"""A value with more characters than this is not shown."""


class Given:
    """Annotates a section. Prefect passes its fields on as they were given, without the model's defaults.

    The fields are not checked here, because a value may be right only together with the recipe's values.
    `override` checks them.

    Args:
        section: the section's name in the configuration.
    """

    def __init__(self, section: str) -> None:
        self._section = section

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_wrap_validator_function(_as_given, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        shown = handler(schema)
        for branch in shown.get("anyOf", [shown]):
            if "$ref" in branch:
                _without_defaults(handler.resolve_ref_schema(branch), handler, (self._section,))
        return shown


def _as_given(value: Any, check: Any) -> Any:
    return value.model_dump(exclude_unset=True) if isinstance(value, BaseModel) else value


def _without_defaults(model: JsonSchemaValue, handler: GetJsonSchemaHandler, path: tuple[str, ...]) -> None:
    """Replace the defaults in a model's schema by what the recipes have, in the descriptions.

    Args:
        model: the schema, which is changed.
        handler: finds the schemas of nested models.
        path: where the model is in the configuration.
    """
    fields = model["properties"]
    method = fields.get("method", {}).get("const")
    for name, field in fields.items():
        if "const" in field:  # it says which method this is, so forms must send it
            continue
        if "$ref" in field:
            _without_defaults(handler.resolve_ref_schema(field), handler, (*path, name))
        default = field.pop("default", None)
        if "$ref" in field or "description" not in field or name in model.get("required", ()):
            continue
        known = _in_recipes((*path, name), method)
        said = _said(known) if known else f"Without a value: {_value(default)}."
        if said not in field["description"]:
            field["description"] += f" {said}"


def _in_recipes(path: tuple[str, ...], method: str | None) -> dict[str, list[str]]:
    """The recipes' values of a key, each with the recipes that have it. Only those with this method count."""
    found = defaultdict[str, list[str]](list)
    for name, value in _values(path, method):
        found[_value(value)].append(name)
    return found


@cache
def _recipes() -> dict[str, Config]:
    return {name: recipe(name) for name in NAMES}


def _values(path: tuple[str, ...], method: str | None) -> Iterator[tuple[str, Any]]:
    for name, config in _recipes().items():
        at: Any = config
        if method is not None and getattr(at, path[0]).method != method:
            continue
        for part in path:
            at = getattr(at, part)
        yield name, at


def _value(value: Any) -> str:
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    text = "empty" if value is None else value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= SHOWN else "(long)"


def _said(known: dict[str, list[str]]) -> str:
    """The recipes' values in words: `Recipes: 16 (digits), 32 (others)` and a full stop."""
    *rest, (usual, _) = sorted(known.items(), key=lambda pair: len(pair[1]))
    if not rest:
        return f"Recipes: {usual}."
    named = [f"{value} ({', '.join(names)})" for value, names in reversed(rest)]
    return f"Recipes: {', '.join(named)}, {usual} (others)."
