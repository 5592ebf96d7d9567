"""The fields of a configuration, for tests that try all of them."""

from __future__ import annotations

from typing import Any

from pydantic.fields import FieldInfo

from data.types import Frozen


def fields(model: Any, above: str = "") -> dict[str, FieldInfo]:
    """All fields below a configuration: dotted key -> field."""
    found: dict[str, FieldInfo] = {}
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if isinstance(value, Frozen):
            found |= fields(value, f"{above}{name}.")
        else:
            found[f"{above}{name}"] = field
    return found
