"""The files and names that the documents mention exist, and every page can be found."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from conftest import ROOT
from documents import DOCUMENTS

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


def entries(nav: Any) -> Iterator[str]:
    """The files and patterns in `nav` of mkdocs.yml, in order."""
    match nav:
        case str():
            yield nav
        case dict() | list():
            for below in nav.values() if isinstance(nav, dict) else nav:
                yield from entries(below)


def test_every_page_is_in_the_navigation_once() -> None:
    """So does a strict build of the pages, but it needs mkdocs."""
    docs = ROOT / "docs"
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    named = [path for entry in entries(nav) for path in docs.glob(entry)]
    assert sorted(named) == sorted(docs.rglob("*.md"))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_leads_to_a_file(document: str) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", (ROOT / document).read_text(), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    here = (ROOT / document).parent
    gone = [
        link
        for link in links
        if not re.match(r"\w+:|#", link) and not (here / link.partition("#")[0]).exists()
    ]
    assert gone == []
