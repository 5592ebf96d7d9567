"""docs/troubleshooting.md quotes messages that the program still has."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from conftest import ROOT

PAGE = ROOT / "docs" / "troubleshooting.md"
VALUE = "…"
"""Stands for a value in a message."""


@cache
def messages() -> str:
    """All texts of the program, one per line. Each value in a text is written as VALUE."""
    packages = ("knowledge_transfer", "flows", "tasks", "models", "data")
    paths = [path for name in packages for path in sorted((ROOT / name).rglob("*.py"))]
    return "\n".join(text.replace("\n", " ") for path in paths for text in texts(path))


def texts(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            parts = (part.value if isinstance(part, ast.Constant) else VALUE for part in node.values)
            yield "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def quoted() -> list[str]:
    """The messages of the page: the first cell of each row of its tables."""
    return re.findall(r"^\| `([^`]+)` \|", PAGE.read_text(), re.MULTILINE)


def test_every_quoted_message_is_in_the_source() -> None:
    assert len(quoted()) > 40
    assert [message for message in quoted() if message not in messages()] == []


def test_a_message_that_nobody_raises_would_be_noticed() -> None:
    assert f"source {VALUE} is not known; known are {VALUE}" in messages()
    assert f"source {VALUE} is unknown" not in messages()


def test_no_message_is_quoted_twice() -> None:
    assert len(set(quoted())) == len(quoted())
