"""The configurations that `compare` runs, and their names. No Prefect."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from data.errors import ConfigError
from flows.recipes import override, parse_settings, recipe
from tasks.config import Config


def pairs(option: str, words: list[str]) -> dict[str, str]:
    """Parse KEY=VALUE words: `["cluster.k=50"]` -> `{"cluster.k": "50"}`.

    Raises:
        ConfigError: a word is not of this form.
    """
    found = {}
    for word in words:
        key, sign, value = word.partition("=")
        if not sign or not key or not value:
            raise ConfigError(
                f"{option} {word!r}: write it as section.key=value, for example {option} cluster.k=50"
            )
        found[key.strip()] = value
    return found


def configurations(
    recipes: list[str], vary: Mapping[str, list[str]], settings: Mapping[str, str]
) -> dict[str, Config]:
    """The configurations to compare, by name.

    A name is made of the varied values, and of the recipe if there are several.

    Raises:
        ConfigError: a recipe, key or value is not allowed, or there is only one configuration.
    """
    shared = parse_settings([f"{key}={value}" for key, value in settings.items()])
    found: dict[str, Config] = {}
    for given in recipes:
        base = override(recipe(given), shared)
        for values in itertools.product(*vary.values()):
            chosen = [f"{key}={value}" for key, value in zip(vary, values, strict=True)]
            name = " ".join([*([base.recipe or given] if len(recipes) > 1 or not chosen else []), *chosen])
            if name in found:
                raise ConfigError(f"compare: {name!r} is given twice")
            config = override(base, parse_settings(chosen))
            found[name] = config.model_copy(update={"recipe": file_name(name)})
    if len(found) < 2:
        raise ConfigError("compare: there is only one configuration; give two recipes, or --vary KEY=A,B")
    return found


def parts(config: Config) -> dict[str, str]:
    """The readable names of a configuration's pretext method, teacher, transfer method and student."""
    teacher = getattr(config.pretext, "backbone", "")
    width = getattr(config.pretext, "width", 1.0)
    return {
        "pretext": config.pretext.method,
        "teacher": _sized(teacher, width) if teacher else "none",
        "transfer": config.transfer.method,
        "student": _sized(config.student.backbone, config.student.width),
    }


def _sized(backbone: str, width: float) -> str:
    return backbone if width == 1 else f"{backbone} x {width:g}"


def file_name(name: str) -> str:
    """A configuration's name with only characters that are safe in file names."""
    return "".join(c if c.isalnum() or c in "-_.=" else "-" for c in name)


def standings(result: Mapping[str, Any]) -> list[str]:
    """The result of the flow `compare` as lines for the terminal."""
    lines = []
    for row in result["board"]:
        if "test set" in row and row["place"] == 1:
            lines.append(f"test set {row['test set']}")
        behind = f"{row['behind, points']} ({row['95 % interval']})" if row["behind, points"] else ""
        lines.append(f"{row['place']:>3}  {row['accuracy, %']:>12}  {row['run']:<40} {behind}".rstrip())
    called = (
        f"{result['winner']} is better than all others, by more than chance"
        if result["winner"]
        else "none, the differences may be chance"
    )
    if result["apart"]:
        lines.append(f"warning {result['apart']}")
        called = "none, these runs are not one ranking"
    return [*lines, f"winner  {called}", f"board   {result['folder']}/leaderboard.html"]
