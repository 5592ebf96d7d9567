"""docs/glossary.md has the words that commands, settings and reports use in a sense of their own."""

from __future__ import annotations

import re

import pytest
from conftest import ROOT

from flows import commands, settings

TERMS = (
    "artifact", "backbone", "baseline", "candidate", "checkpoint", "claim", "cluster", "codes",
    "collapse", "contender", "descriptor", "distil", "draw", "dry run", "embed", "features",
    "few-label", "fine-tune", "head", "held out", "kind", "kNN", "label", "left out", "linear",
    "manifest", "mixture", "neighbours", "NMI", "out of fold", "pinned", "plan", "pretext",
    "propagate", "protocol", "prototype", "pseudo-label", "queue", "recipe", "report", "scratch",
    "shipped", "source", "stage", "store", "student", "teacher", "temperature", "transfer",
    "transferred", "twins", "unlabelled", "view", "wide",
)  # fmt: skip
"""Words that a user meets and that have a special meaning here."""


def rows() -> list[tuple[list[str], str]]:
    """The words of each row, and their meaning."""
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    found = re.findall(r"^\| (.+?) \| (.+) \|$", text, re.MULTILINE)
    return [(words.split(", "), meaning) for words, meaning in found if words not in ("word", "---")]


def seen() -> str:
    """What users read: the commands, the settings, the report, and what is promised."""
    places = [
        *(ROOT / "tasks" / "report").iterdir(),
        ROOT / "docs" / "contract.md",
        ROOT / "flows" / "phrases.py",
    ]
    texts = [path.read_text(encoding="utf-8") for path in places if path.is_file()]
    return "\n".join([commands.page(), settings.page(), *texts])


@pytest.mark.parametrize("term", TERMS)
def test_the_word_is_explained(term: str) -> None:
    assert any(term in words for words, _ in rows())


def test_users_meet_these_words() -> None:
    text = seen()
    words = {term: rf"(?<!\w){term.replace(' ', '[ -]')}" for term in TERMS}
    unused = [term for term, word in words.items() if not re.search(word, text, re.IGNORECASE)]
    assert unused == []


def test_each_word_has_one_meaning_of_one_sentence() -> None:
    words = [word for names, _ in rows() for word in names]
    assert len(set(words)) == len(words)
    assert [words for words, meaning in rows() if ". " in meaning] == []


def test_the_words_are_in_order() -> None:
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    for table in text.split("\n## ")[1:]:
        firsts = re.findall(r"^\| (.+?) \|", table, re.MULTILINE)[2:]
        assert firsts == sorted(firsts, key=str.casefold)
