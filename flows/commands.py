"""The page of the command line, from its own parsers. `--help` says the same.

    python -m flows.commands docs/commands.md

writes the page.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from flows.__main__ import PROGRAM, parser

_HEAD = f"""# Commands

Every command of `{PROGRAM}` and its arguments. `python -m flows.commands docs/commands.md` writes
this page from the program's own `--help`. [contract.md](contract.md) says what scripts may rely on.

- `[...]` may be left out. `...` after an argument means that it may be repeated.
- In a checkout, `python -m flows` and `python -m knowledge_transfer` do the same as `{PROGRAM}`.
- The exit status is 0 when the command is done, 2 for a mistake of yours (one line says what, where, and
  what to do), 1 when the work failed, and 130 when it was interrupted.
"""


def page() -> str:
    """The content of docs/commands.md: all commands in the order of `--help`, without `--help` itself."""
    found = dict(_commands(parser()))
    parts = [_HEAD, "| command | what it does |", "| --- | --- |"]
    for name, each in found.items():
        parts.append(f"| [`{name}`](#{name.replace(' ', '-')}) | {_cell(each.description or '')} |")
    for name, each in found.items():
        text = each.description or ""
        parts += ["", f"## `{name}`", "", f"{text[:1].upper()}{text[1:]}."]
        parts += ["", "```text", *_usage(name, each), "```"]
        if arguments := _arguments(each):
            parts += ["", "| argument | what it does |", "| --- | --- |", *map(_row, arguments)]
    return "\n".join(parts) + "\n"


def _commands(
    above: argparse.ArgumentParser, before: str = ""
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """The commands that do something, such as `run` and `store gc`, with their parsers."""
    for name, each in _parts(above).items():
        if _parts(each):
            yield from _commands(each, f"{before}{name} ")
        else:
            yield before + name, each


def _parts(above: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    for action in above._actions:
        if isinstance(action, argparse._SubParsersAction):
            return action.choices
    return {}


def _arguments(each: argparse.ArgumentParser) -> list[argparse.Action]:
    return [action for action in each._actions if action.dest != "help"]


def _usage(name: str, each: argparse.ArgumentParser) -> Iterator[str]:
    """The command with its arguments, in lines that fit on a screen."""
    line = f"{PROGRAM} {name}"
    ordered = sorted(_arguments(each), key=lambda action: bool(action.option_strings))
    for word in map(_form, ordered):
        if len(f"{line} {word}") > 100:
            yield line
            line = "   "
        line = f"{line} {word}"
    yield line


def _form(action: argparse.Action) -> str:
    """An argument as the usage shows it, such as `[--set KEY=VALUE]...`."""
    repeated = "..." if isinstance(action, argparse._AppendAction) or action.nargs in ("*", "+") else ""
    if not action.option_strings:
        return f"{action.metavar}{repeated}" if action.required else f"[{action.metavar}]{repeated}"
    if action.nargs in ("*", "+"):
        again = "..." if isinstance(action, argparse._AppendAction) else ""
        return f"[{_written(action)}{repeated}]{again}"
    return _written(action) if action.required else f"[{_written(action)}]{repeated}"


def _written(action: argparse.Action) -> str:
    """An option with its value, such as `--store DIR` or `--dry-run [look|full]`."""
    (option,) = action.option_strings
    if action.nargs == 0:
        return option
    names = (action.metavar,) if isinstance(action.metavar, str) else action.metavar
    value = " ".join(names or ("|".join(map(str, action.choices or ())),))
    return f"{option}[={value}]" if action.nargs == "?" else f"{option} {value}"


def _row(action: argparse.Action) -> str:
    form = _written(action) if action.option_strings else str(action.metavar)
    return f"| `{_cell(form)}` | {_cell((action.help or '').replace('%%', '%'))} |"


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
