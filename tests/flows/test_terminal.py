"""The progress on a terminal: the time left is shown in full, however narrow the terminal is."""

from __future__ import annotations

import io
import re
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from flows.terminal import Terminal

ETAS = {"pretext": (7500.0, "2 h 05 min left"), "nonlinear-student-transferred": (3599.0, "59 min 59 s left")}
PROGRESS = {"event": "progress", "done": 12_345, "total": 100_000, "epoch": 11, "epochs": 130}


def bars(columns: int, **more: Any) -> list[str]:
    """The lines that a terminal of so many columns shows while two stages run."""
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=columns, color_system=None)
    terminal = Terminal(console)
    run: Any = SimpleNamespace(name="digits", folder="store/runs/digits")
    terminal.begin(run)
    for label, (eta, _) in ETAS.items():
        terminal.event(label, {"event": "running"})
        terminal.event(label, {**PROGRESS, "eta": eta, **more})
    screen.truncate(screen.seek(0))
    terminal.event("evaluate", {"event": "running"})  # a new stage redraws the bars
    shown = screen.getvalue()
    terminal.end(run, None, None)
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown).splitlines()
    drawn = [line for line in lines if "left" in line]
    assert len(drawn) % len(ETAS) == 0
    return drawn[-len(ETAS) :]  # on a slow machine, the bars may also have been redrawn by their own clock


@pytest.mark.parametrize("columns", [40, 60, 74, 75, 80, 99, 100, 120, 200])
def test_the_time_left_is_shown_in_full(columns: int) -> None:
    lines = bars(columns, loss=2.31, rate=1234.0, data_share=0.02)
    assert len(lines) == len(ETAS)
    for line, (label, (_, left)) in zip(lines, ETAS.items(), strict=True):
        assert left in line
        assert label[:12] in line
        assert len(line) <= columns
    assert "12,345" in lines[0] or columns < 60


def test_a_wide_terminal_shows_whole_names_and_all_figures() -> None:
    lines = bars(200, loss=2.31, rate=1234.0, data_share=0.02)
    assert "nonlinear-student-transferred " in lines[1]
    assert "12,345 of 100,000, epoch 12/130, loss 2.310, 1,234 images/s, 2 % on data" in lines[1]
