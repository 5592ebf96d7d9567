"""What each key of the configuration means and accepts. `show` and docs/settings.md say the same.

    python -m flows.settings docs/settings.md

writes the page. The sentences are the descriptions of the pydantic models. Ranges come from their JSON
schemas, because many descriptions, but not all, repeat the range for Prefect's forms.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from data.types import Frozen
from tasks.config import Config
from tasks.overlay import METHOD_SECTIONS, methods

_HEAD = """# Settings

Every key of the configuration: its default, what it accepts, and what it does. `python -m flows.settings
docs/settings.md` writes this page from the configuration's own descriptions.

- On the command line, write `--set cluster.k=50`. In a YAML file, write `k: 50` below `cluster:`.
- *empty* is the value `null`: `--set data.test=null`.
- A recipe has its own values for many keys. `knowledge-transfer show RECIPE` prints all of them with these
  sentences, and `knowledge-transfer show RECIPE --changed` prints those that differ from the defaults below.
- A YAML file with `recipe: digits`, or another name that `list` shows, needs only the keys that differ from
  this recipe. All other keys have the recipe's values. Choosing another `method` has the same effect as with
  `--set`. `--set` wins over the file. Any other name in `recipe:` is a label of your own. If the file has no
  such key, its name is the label. Keys that such a file lacks have the defaults below.
- The methods `pretext.method` and `transfer.method` each have their own keys, in one table per method.
"""


@dataclass(frozen=True)
class Setting:
    """A key of the configuration.

    Attributes:
        key: the dotted key, as `--set` takes it.
        description: what it does, from its model.
        default: its default as a JSON value; None also if it has none.
        required: whether it must be given.
        kind: `integer`, `number`, `text`, `true or false`, `list of numbers` ....
        range: the numbers that it accepts, such as `1 to 100`; empty if this does not apply.
        further: limits of a list, one sentence each.
        values: the names that it accepts, or those that are known.
        nullable: whether it may be empty.
    """

    key: str
    description: str
    default: Any
    required: bool
    kind: str
    range: str
    further: tuple[str, ...]
    values: tuple[str, ...]
    nullable: bool

    @property
    def sentence(self) -> str:
        """What the key does and accepts, in sentences. A range or a value is never given twice."""
        parts = [self.description] if self.description else []
        if self.range and not _has(self.description, self.range):
            parts.append(f"Range: {self.range}.")
        parts += self.further
        if not all(_has(self.description, value) for value in self.values):
            parts.append(f"Values: {', '.join(self.values)}.")
        return " ".join(parts)

    @property
    def allowed(self) -> str:
        """What the key accepts, for the table."""
        listed = self.kind.startswith("list")  # other packages and new stages extend the names in lists
        parts = [", ".join(self.values) if self.values and not listed else self.kind, self.range]
        return ", ".join(part for part in parts if part) + (", or empty" if self.nullable else "")

    @property
    def meaning(self) -> str:
        """What the key does, for the table, which has the range and the values in another column."""
        text = self.description
        if self.range:
            limits = re.escape(self.range)
            text = re.sub(rf"\({limits}[,;] ", "(", re.sub(rf" \({limits}\)", "", text))
        return " ".join([text, *self.further])


@cache
def settings(model: type[Frozen], above: str = "") -> Mapping[str, Setting]:
    """The keys of a model by name, without those of models below it.

    Args:
        model: a section's model, or `Config`.
        above: the dotted key of the section, with a dot at its end; empty for `Config`.
    """
    properties: dict[str, Any] = model.model_json_schema()["properties"]
    found = {}
    for name, field in model.model_fields.items():
        if isinstance(field.default, Frozen):
            continue
        schema, nullable = _not_null(properties[name])
        section = above.removesuffix(".")
        values = tuple(map(str, schema.get("items", schema).get("enum", ())))
        if name == "method" and section in METHOD_SECTIONS:
            values = tuple(methods(section))
        found[name] = Setting(
            key=f"{above}{name}",
            description=field.description or "",
            default=None if field.is_required() else properties[name].get("default"),
            required=field.is_required(),
            kind=_kind(schema),
            range=_range(schema),
            further=tuple(_of_list(schema, field.description or "")),
            values=values,
            nullable=nullable,
        )
    return found


def sentence_on(model: type[Frozen]) -> str:
    """The first line of a section's docstring."""
    return (model.__doc__ or "").partition("\n")[0]


def _has(text: str, word: str) -> bool:
    return re.search(rf"(?<![\w.]){re.escape(word)}(?!\w)", text) is not None


def _not_null(schema: Mapping[str, Any]) -> tuple[Mapping[str, Any], bool]:
    """Split an optional value's schema: the schema without null, and whether null is accepted."""
    branches = schema.get("anyOf", [schema])
    rest = [branch for branch in branches if branch.get("type") != "null"]
    return rest[0], len(rest) < len(branches)


_KINDS = {"string": "text", "boolean": "true or false", "object": "mapping"}
_PLURALS = {"integer": "integers", "number": "numbers", "string": "names"}


def _kind(schema: Mapping[str, Any]) -> str:
    kind: str = schema.get("type", "")
    if kind == "array":
        return f"list of {_PLURALS[schema['items']['type']]}"
    return _KINDS.get(kind, kind)


def _range(schema: Mapping[str, Any]) -> str:
    """The numbers that a schema accepts, in the words of the descriptions; empty for all numbers."""
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    high, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    first = f"above {_number(above)}" if above is not None else "" if low is None else _number(low)
    if high is None and below is None:
        return f"{first} or more" if low is not None else first
    last = f"up to {_number(high)}" if high is not None else f"below {_number(below)}"
    if low is None:
        return f"{first}, {last}" if first else last
    return f"{first} to {last.removeprefix('up to ')}"


def _number(value: Any) -> str:
    return str(int(value)) if value == int(value) else str(value)


def _of_list(schema: Mapping[str, Any], description: str) -> Iterator[str]:
    """The limits of a list that its description does not have: of each value, and of their number."""
    if schema.get("type") != "array":
        return
    each = _range(schema["items"])
    if each and not _has(description, each):
        yield f"Each value: {each}."
    least, most = schema.get("minItems", 0), schema.get("maxItems")
    if most is not None:
        number = str(most) if least == most else f"{least} to {most}" if least else f"at most {most}"
        if not _has(description, number):
            yield f"Number of values: {number}."


def page() -> str:
    """The content of docs/settings.md: all sections, and all of our own methods."""
    parts = [_HEAD, "## Top level", "", *_table(Config, "")]
    for name, field in Config.model_fields.items():
        if not isinstance(field.default, Frozen):
            continue
        parts += [f"## `{name}`", ""]
        if name not in METHOD_SECTIONS:
            parts += _section(type(field.default), f"{name}.")
            continue
        for method, model in methods(name).items():
            if model.__module__.startswith("models.configs."):  # other packages document their own methods
                parts += [f"### `{name}.method={method}`", "", *_section(model, f"{name}.")]
    return "\n".join(parts).rstrip() + "\n"


def _section(model: type[Frozen], above: str) -> Iterator[str]:
    yield from (sentence_on(model), "", *_table(model, above))
    for name, field in model.model_fields.items():
        if isinstance(field.default, Frozen):
            yield from (f"### `{above}{name}`", "", *_section(type(field.default), f"{above}{name}."))


def _table(model: type[Frozen], above: str) -> Iterator[str]:
    yield from ("| key | default | accepts | what it does |", "| --- | --- | --- | --- |")
    for name, setting in settings(model, above).items():
        if name == "method":  # the title names it
            continue
        default = "must be given" if setting.required else _value(setting.default)
        cells = (f"`{setting.key}`", default, setting.allowed, setting.meaning)
        yield "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"
    yield ""


def _value(value: Any) -> str:
    """A default in the words of the page: `empty`, `none`, or the value as YAML has it."""
    match value:
        case None:
            return "empty"
        case "" | [] | {}:
            return "none"
        case list():
            return ", ".join(map(_value, value))
        case bool():
            return f"`{str(value).lower()}`"
    return f"`{value}`"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
