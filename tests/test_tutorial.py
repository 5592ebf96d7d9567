"""docs/tutorial.md, followed word by word in an empty folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT
from documents import blocks

PAGE = "docs/tutorial.md"


def script() -> str:
    """The page as one program of the shell. A block of Python is written to the file that it names."""
    parts = ["set -euo pipefail"]
    for block in blocks(PAGE):
        if block.mark is not None and block.mark.startswith("not run"):
            continue
        if block.language == "python":
            name = re.match(r"# (\w+\.py)\n", block.text)
            assert name, f"{block.place}: the first line names no file"
            parts.append(f"cat > {name[1]} <<'END'\n{block.text}END")
        elif block.language == "sh":
            parts.append(f"echo '== {block.line}'\n{block.text}")
    return "\n".join(parts)


def test_its_blocks_are_known() -> None:
    """The slow test below finds them all."""
    assert [block.language for block in blocks(PAGE)].count("python") == 2
    assert script().count("knowledge-transfer ") == 4
    assert "python answer.py" in script()


@pytest.mark.slow
def test_a_new_user_gets_the_same_answers_in_another_program(
    environment: dict[str, str], tmp_path: Path
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, words in (("python", ""), ("knowledge-transfer", "-m knowledge_transfer ")):
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} {words}"$@"\n')
        (programs / name).chmod(0o755)
    work = tmp_path / "work"
    work.mkdir()
    check = (
        "knowledge-transfer predict $RUN new/*.png --out asked.csv\npython answer.py new/*.png > answered.txt"
    )
    done = subprocess.run(
        ["bash", "-c", f"{script()}\n{check}"],
        cwd=work,
        env={**environment, "PATH": f"{programs}{os.pathsep}{environment['PATH']}", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=3000,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    asked = pd.read_csv(work / "asked.csv")
    answered = re.findall(r"^(\S+): (\S+), ([\d.]+)%$", (work / "answered.txt").read_text(), re.MULTILINE)
    assert [(uri, name) for uri, name, _ in answered] == list(zip(asked["uri"], asked["class"], strict=True))
    assert [float(p) for *_, p in answered] == pytest.approx((100 * asked["probability"]).tolist(), abs=0.06)
    accuracy = re.search(r"^score +([\d.]+) % of 287 test images right", done.stdout, re.MULTILINE)
    assert accuracy
    assert float(accuracy[1]) > 70  # ten classes, so a guess has 10
