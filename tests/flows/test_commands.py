"""docs/commands.md is current, and has what `--help` has."""

from __future__ import annotations

import re

import pytest
from conftest import ROOT

from flows.__main__ import main
from flows.commands import page


def test_the_page_of_commands_is_current() -> None:
    written = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert written == page(), "out of date; write it with: python -m flows.commands docs/commands.md"


def sections() -> list[tuple[str, str]]:
    """Each command of the page, and the text about it."""
    return re.findall(r"^## `(.+?)`\n(.*?)(?=^## |\Z)", page(), re.MULTILINE | re.DOTALL)


def test_the_page_has_every_command_and_every_option(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compared with what `--help` prints."""
    monkeypatch.setenv("COLUMNS", "1000")  # so that no sentence is broken, and only names begin lines

    def options(*words: str) -> set[str]:
        with pytest.raises(SystemExit):
            main([*words, "--help"])
        return set(re.findall(r"^ +(--[\w-]+|[\w-]+(?= {2,}\S|$))", capsys.readouterr().out, re.MULTILINE))

    named = {name.split()[0] for name, _ in sections()}
    assert named == {word for word in options() if word[0] != "-"} - {"COMMAND"}
    for name, section in sections():
        shown = {word for word in options(*name.split()) if word[0] == "-"}
        assert set(re.findall(r"^\| `(--[\w-]+)", section, re.MULTILINE)) == shown - {"--help"}, name


def test_the_usage_says_what_may_be_left_out_and_what_may_be_repeated() -> None:
    usage = {name: re.findall(r"```text\n(.*?)\n```", section, re.DOTALL)[0] for name, section in sections()}
    words = {name: " ".join(text.split()) for name, text in usage.items()}
    assert words["run"].startswith("knowledge-transfer run [RECIPE] [--minutes N] [--set KEY=VALUE]...")
    assert words["export"].startswith("knowledge-transfer export RUN --to DIR [--format")
    assert words["predict"].startswith("knowledge-transfer predict MODEL IMAGES... [--out FILE]")
    assert "[--protocols NAME...]" in words["evaluate"]
    assert "[--dry-run[=look|full]]" in words["run"]
    assert max(len(line) for text in usage.values() for line in text.splitlines()) <= 100
