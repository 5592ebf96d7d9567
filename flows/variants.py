"""The configurations that `compare` runs, and their names. No Prefect."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from data.errors import ConfigError
from flows.phrases import storage
from flows.recipes import override, parse_settings, recipe
from tasks.config import Config
from tasks.feasible import refuse_weights
from tasks.phrases import duration

SHARED = ("seed", "store", "data.label_seed")
"""Keys that all arms of a comparison share, because their runs are paired."""


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


def named_arms(options: list[list[str]]) -> dict[str, dict[str, str]]:
    """Parse the words of each `--arm`: `[["own", "cluster.k=50"]]` -> `{"own": {"cluster.k": "50"}}`.

    Raises:
        ConfigError: an arm has no name, a word is not KEY=VALUE, or a name is given twice.
    """
    found: dict[str, dict[str, str]] = {}
    for name, *words in options:
        if not name or "=" in name:
            raise ConfigError(f"--arm {name}: the first word is the arm's name, such as --arm own {name}")
        if name in found:
            raise ConfigError(f"--arm {name}: this name is given twice; each arm needs its own")
        found[name] = pairs(f"--arm {name}", words)
    return found


def configurations(
    recipes: list[str],
    vary: Mapping[str, list[str]],
    settings: Mapping[str, str],
    arms: Mapping[str, Mapping[str, str]] | None = None,
) -> dict[str, Config]:
    """The configurations to compare, by name.

    The name is the arm's, or is made of the varied values, and of the recipe if there are several.

    Args:
        recipes: names of recipes, or YAML files.
        vary: key -> values to try.
        settings: keys that change in all configurations.
        arms: name -> the keys that set it apart.

    Raises:
        ConfigError: a recipe, key or value is not allowed, files of weights are missing, there is only one
            configuration, or two of them are the same.
    """
    if arms and (vary or len(recipes) > 1):
        raise ConfigError("compare: arms are variants of one recipe; give one recipe, and no --vary")
    shared = parse_settings([f"{key}={value}" for key, value in settings.items()])
    found: dict[str, Config] = {}
    for given in recipes:
        base = override(recipe(given), shared)
        for name, chosen in _chosen(arms or {}, vary):
            if not arms:
                own = [base.recipe or given] if len(recipes) > 1 or not chosen else []
                name = " ".join([*own, *chosen])
            if name in found:
                raise ConfigError(f"compare: {name!r} is given twice")
            found[name] = _variant(base, name, chosen, arm=bool(arms))
    if len(found) < 2:
        if arms:
            raise ConfigError(
                f"compare: {next(iter(found))!r} is the only arm; give another one with --arm NAME KEY=VALUE"
            )
        raise ConfigError(
            "compare: there is only one configuration; give two recipes, --vary KEY=A,B, or two arms with "
            "--arm NAME KEY=VALUE"
        )
    _refuse_twins(found)
    return found


def _chosen(
    arms: Mapping[str, Mapping[str, str]], vary: Mapping[str, list[str]]
) -> Iterator[tuple[str, list[str]]]:
    """The name of each variant of a recipe, empty unless it is an arm, and its settings as KEY=VALUE."""
    for name, settings in arms.items():
        yield name, [f"{key}={value}" for key, value in settings.items()]
    if not arms:
        for values in itertools.product(*vary.values()):
            yield "", [f"{key}={value}" for key, value in zip(vary, values, strict=True)]


def _variant(base: Config, name: str, chosen: list[str], *, arm: bool) -> Config:
    """A recipe with the settings that set a variant apart. Its `recipe` is a label for its runs."""
    label = f"{base.recipe}-{name}" if arm else name
    try:
        config = override(base, parse_settings(chosen))
        refuse_weights(config)
    except ConfigError as error:
        raise ConfigError(f"--arm {name}: {error}" if arm else str(error)) from None
    for key in SHARED if arm else ():
        if any(word.partition("=")[0].strip() == key for word in chosen):
            raise ConfigError(f"--arm {name}: all arms have the same {key}; give it with --set")
    return config.model_copy(update={"recipe": file_name(label)})


def _refuse_twins(found: Mapping[str, Config]) -> None:
    """Refuse two names for one configuration, and names whose files would be the same."""
    known: dict[str, str] = {}
    for name, config in found.items():
        keys = (config.model_dump_json(exclude={"recipe": True, "plan": {"keep"}}), config.recipe)
        for key in keys:
            if key in known:
                raise ConfigError(
                    f"compare: {known[key]!r} and {name!r} are the same; change a key, or the name, of one"
                )
            known[key] = name


def refuse_both(seeds: int, draws: int) -> None:
    """Refuse fewer than one run per configuration, and seeds together with draws.

    Raises:
        ConfigError: runs that differ in both could not be paired as if each were independent.
    """
    for option, number in (("--seeds", seeds), ("--draws", draws)):
        if number < 1:
            raise ConfigError(f"{option} {number}: each configuration needs at least one run")
    if seeds > 1 and draws > 1:
        raise ConfigError(
            f"--seeds {seeds} --draws {draws}: give one of them; --draws repeats only what uses labels"
        )


def drawn(config: Config, draw: int) -> Config:
    """A configuration with another draw of labels.

    It is not among the keys that a plan counts as set by hand, so all draws have one plan.

    Args:
        config: the configuration.
        draw: number of the draw; 0 is the configuration's own.
    """
    first = config.seed if config.data.label_seed is None else config.data.label_seed
    data = config.data.model_copy(update={"label_seed": first + draw})
    return config.model_copy(update={"data": data})


def parts(config: Config) -> dict[str, str]:
    """The readable names of a configuration's pretext method, teacher, transfer method and student."""
    teacher = getattr(config.pretext, "backbone", "")
    width = getattr(config.pretext, "width", 1.0)
    return {
        "pretext": config.pretext.method,
        "teacher": sized(teacher, width) if teacher else "none",
        "transfer": config.transfer.method,
        "student": sized(config.student.backbone, config.student.width),
    }


def sized(backbone: str, width: float) -> str:
    """A backbone's name, with its width if that is not 1."""
    return backbone if width == 1 else f"{backbone} x {width:g}"


def file_name(name: str) -> str:
    """A configuration's name with only characters that are safe in file names."""
    return "".join(c if c.isalnum() or c in "-_.=" else "-" for c in name)


def standings(result: Mapping[str, Any]) -> list[str]:
    """The result of the flow `compare` as lines for the terminal."""
    lines: list[str] = []
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
    lines += map(_outline, result["arms"])
    return [*lines, f"winner  {called}", f"board   {result['folder']}/leaderboard.html"]


def _outline(arm: Mapping[str, Any]) -> str:
    """What one configuration gives, in one line: the model that ships, its rivals, time and size."""
    found = [f"{name} {100 * score['value']:.1f} %" for name, score in arm["accuracy"].items()]
    if arm["gain"] is not None:
        ends = " to ".join(f"{100 * end:+.1f}" for end in arm["gain"]["interval"] or ())
        found.append(
            f"{100 * arm['gain']['value']:+.1f} points over scratch" + (f" ({ends})" if ends else "")
        )
    found.append(f"{duration(arm['seconds'])} per run")
    ships = arm["models"].get("shipped")
    if ships is not None:
        found.append(
            f"ships {' or '.join(arm['ships'])}: {ships['network']} at {ships['image_size']} px, "
            f"{ships['parameters']:,} parameters, {storage(ships['bytes'])}"
        )
    return f"        {arm['arm']}: {'; '.join(found)}"
