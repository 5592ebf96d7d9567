"""Which column of a Parquet file holds the images, which one the labels, and which one the split."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pyarrow import types

from data.errors import DataError
from data.sources.layout import composed

_IMAGE = ("image", "img", "images", "picture", "photo", "jpg", "jpeg", "png", "image_bytes", "file")
_LABEL = ("label", "labels", "class", "classes", "category", "target", "class_label", "class_name", "y")
_ENDINGS = ("_label", "_labels", "_class", "_category")


@dataclass(frozen=True)
class Columns:
    """The columns of a Parquet file that are used.

    Attributes:
        image: column of the images: binary, or a struct with the field `bytes`.
        label: column of the labels, or None.
        split: column that says the split of each row, or None.
        names: class names that the metadata declares for the label column, or None.
        guesses: sentences for the user about columns that were guessed.
    """

    image: str
    label: str | None
    split: str | None
    names: tuple[str, ...] | None
    guesses: tuple[str, ...]


def choose(schema: pa.Schema, where: str, image: str | None, label: str | None) -> Columns:
    """Choose the columns.

    Args:
        schema: the file's schema.
        where: source and file, for messages.
        image: the column that the user named, or None.
        label: the column that the user named, or None.

    Raises:
        DataError: there is no such column, none can be used, or several can.
    """
    declared = _declared(schema)
    guesses: list[str] = []
    pictures = _choose_image(schema, where, image, declared)
    if pictures != "image" and image is None:
        guesses.append(f"column {pictures!r} holds the images")
    labels = _choose_label(schema, where, label, pictures, declared, guesses)
    split = next((f.name for f in schema if f.name.lower() == "split" and _is_text(f.type)), None)
    return Columns(pictures, labels, split, _class_names(declared, labels), tuple(guesses))


def _choose_image(
    schema: pa.Schema, where: str, wanted: str | None, declared: Mapping[str, Mapping[str, Any]]
) -> str:
    if wanted is not None:
        rule = "images must be binary, or a struct of bytes and path"
        return _wanted(schema, where, "image", wanted, _is_image, rule)
    if "image" in schema.names and not _is_image(schema.field("image").type):
        raise DataError(
            f"{where}: column 'image' is {schema.field('image').type}, not binary or a struct of bytes and "
            "path"
        )
    able = [field.name for field in schema if _is_image(field.type)]
    told = [name for name in able if declared.get(name, {}).get("_type") == "Image"]
    return _only(
        [["image"] if "image" in able else [], told, [n for n in able if n.lower() in _IMAGE], able],
        lambda several: DataError(
            f"{where}: several columns may hold the images ({', '.join(several)}); "
            "choose one with data.image_column"
            if several
            else f"{where} has no column of images, only {', '.join(schema.names)}; a column of images is "
            "binary, or a struct of bytes and path"
        ),
    )


def _choose_label(
    schema: pa.Schema,
    where: str,
    wanted: str | None,
    image: str,
    declared: Mapping[str, Mapping[str, Any]],
    guesses: list[str],
) -> str | None:
    if wanted is not None:
        rule = "labels must be integers, floats with whole values, or strings"
        return _wanted(schema, where, "label", wanted, _is_label, rule)
    others: list[pa.Field] = [field for field in schema if field.name != image]
    if "label" in schema.names:
        if not _is_label(schema.field("label").type):
            raise DataError(
                f"{where}: column 'label' is {schema.field('label').type}; it must be integers, "
                "floats with whole values, or strings"
            )
        return "label"
    told = [f.name for f in others if declared.get(f.name, {}).get("_type") == "ClassLabel"]
    alike = [f.name for f in others if f.name.lower() in _LABEL or f.name.lower().endswith(_ENDINGS)]
    usable = [name for name in alike if _is_label(schema.field(name).type)]
    for candidates in (told, usable):
        if len(candidates) > 1:
            raise DataError(
                f"{where}: several columns may hold the labels ({', '.join(candidates)}); "
                "choose one with data.label_column"
            )
        if candidates:
            guesses.append(f"column {candidates[0]!r} holds the labels")
            return str(candidates[0])
    for name in alike:
        guesses.append(f"column {name!r} is {schema.field(name).type}, so it is not used as labels")
    if not alike and others:
        names = ", ".join(field.name for field in others)
        guesses.append(f"no column of labels was found among {names}; data.label_column names one")
    return None


def _only(candidates: list[list[str]], refusal: Callable[[list[str]], DataError]) -> str:
    """The one column of the first list that is not empty."""
    found = next((names for names in candidates if names), [])
    if len(found) != 1:
        raise refusal(found)
    return found[0]


def _wanted(
    schema: pa.Schema, where: str, what: str, name: str, able: Callable[[pa.DataType], bool], rule: str
) -> str:
    """The column that the user named, if it is there and has a type that can be used."""
    if name not in schema.names:
        raise DataError(
            f"{where} has no column {name!r} (data.{what}_column), only {', '.join(schema.names)}"
        )
    kind = schema.field(name).type
    if not able(kind):
        raise DataError(f"{where}: column {name!r} is {kind}; {rule}; set data.{what}_column to another one")
    return name


def _declared(schema: pa.Schema) -> dict[str, dict[str, Any]]:
    """Column -> its Hugging Face feature, from the schema's metadata."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {str(name): feature for name, feature in features.items() if isinstance(feature, dict)}
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def _class_names(declared: Mapping[str, Mapping[str, Any]], label: str | None) -> tuple[str, ...] | None:
    names = declared.get(label or "", {}).get("names")
    return tuple(composed(str(name)) for name in names) if isinstance(names, list) else None


def is_binary(kind: pa.DataType) -> bool:
    """Whether a column holds bytes."""
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))


def _is_image(kind: pa.DataType) -> bool:
    if types.is_struct(kind):
        position = kind.get_field_index("bytes")
        # If no row has bytes, the field's type is null. Each row is then reported as one with only a path.
        return position >= 0 and (is_binary(inner := kind.field(position).type) or types.is_null(inner))
    return is_binary(kind)


def _is_text(kind: pa.DataType) -> bool:
    value = kind.value_type if types.is_dictionary(kind) else kind
    return bool(types.is_string(value) or types.is_large_string(value) or types.is_string_view(value))


def _is_label(kind: pa.DataType) -> bool:
    value = kind.value_type if types.is_dictionary(kind) else kind
    number = types.is_integer(value) or types.is_floating(value) or types.is_boolean(value)
    return bool(_is_text(kind) or number or types.is_null(value))
