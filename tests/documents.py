"""The blocks of code in README, docs and examples, and the marks above them.

A mark is an HTML comment on the line above a block:

    <!-- not run in tests: REASON -->
    <!-- run by tests/PATH -->            this test finds the block in the page and runs it
    <!-- from PATH -->                    the block is a part of a file that tests run

`<!-- each block: run by tests/PATH -->` anywhere on a page marks all of its blocks. `test_blocks.py` runs the
blocks that have no mark.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from conftest import ROOT

DOCUMENTS = tuple(
    path.relative_to(ROOT).as_posix()
    for path in sorted(
        (
            ROOT / "README.md",
            ROOT / "CONTRIBUTING.md",
            *(ROOT / "docs").rglob("*.md"),
            *(ROOT / "examples").glob("*/README.md"),
        )
    )
)
COMMANDS = ("sh", "python", "toml", "yaml")
"""Languages of blocks that a reader copies."""
SHOWN = ("text",)
"""Languages of blocks that a reader only looks at."""
_FENCE = re.compile(r"^```(?P<language>\S*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_ABOVE = re.compile(r"^<!-- (?P<mark>.+) -->\n\Z", re.MULTILINE)
_EACH = re.compile(r"^<!-- each block: (?P<mark>.+) -->$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        document: path of its page, from the root of the repository.
        line: number of its first line, from 1.
        language: what follows the fence; empty if nothing does.
        text: its lines.
        mark: the comment above it, or the page's; None without one.
    """

    document: str
    line: int
    language: str
    text: str
    mark: str | None

    @property
    def place(self) -> str:
        """Where it is, for messages."""
        return f"{self.document}:{self.line}"


def blocks(document: str) -> list[Block]:
    """All blocks of a page, in order."""
    content = (ROOT / document).read_text(encoding="utf-8")
    each = _EACH.search(content)
    found = []
    for fence in _FENCE.finditer(content):
        above = _ABOVE.search(content, 0, fence.start())
        mark = above or each
        line = content.count("\n", 0, fence.start()) + 2
        found.append(
            Block(document, line, fence["language"], fence["text"], None if mark is None else mark["mark"])
        )
    return found


def commands() -> list[Block]:
    """The blocks of all documents that a reader copies."""
    return [block for name in DOCUMENTS for block in blocks(name) if block.language in COMMANDS]
