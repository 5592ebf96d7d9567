"""The files and names that the documents mention exist."""

from __future__ import annotations

import re

import pytest
from conftest import ROOT

CODE = [
    path
    for name in ("knowledge_transfer", "flows", "tasks", "models", "data")
    for path in (ROOT / name).rglob("*.py")
]
QUOTED = re.compile(r"`([^`\n]+)`")
PATH = re.compile(r"^[\w./<>-]+(/|\.(py|md|yaml|toml))$")


def test_the_architecture_fits_on_two_screens() -> None:
    assert len((ROOT / "docs" / "architecture.md").read_text().splitlines()) <= 90


@pytest.mark.parametrize("document", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_every_path_and_name_exists(document: str) -> None:
    text = re.sub(r"```.*?```", "", (ROOT / document).read_text(), flags=re.DOTALL)
    words = {word for path in CODE for word in re.findall(r"[\w-]+", path.read_text())}
    words |= {path.name for path in (ROOT / "scripts").iterdir()}
    missing = []
    for quoted in QUOTED.findall(text):
        for part in quoted.split(", "):
            if PATH.match(part) and "<" not in part:
                if not (ROOT / part).exists():
                    missing.append(part)
            elif part == ".venv" or part.startswith(
                "KNOWLEDGE_TRANSFER_"
            ):  # an environment variable that tests read
                continue
            elif re.fullmatch(r"[\w.]+(\(\))?", part) and not (ROOT / part).exists():
                missing += [part for name in part.removesuffix("()").split(".") if name not in words]
    assert missing == []
