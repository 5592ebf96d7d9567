"""Every block of commands in the documents runs, here or elsewhere, or says why it does not.

The blocks of a page run in order, in a folder with photographs, a finished run and whatever else they name.
They run as written, with two exceptions: a whole run is a dry run here, because whole runs take minutes, and
`kt.run` opens the run that is there.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, TINY
from documents import COMMANDS, DOCUMENTS, SHOWN, Block, blocks, commands
from in_process import run_chain
from PIL import Image

from flows.__main__ import main
from flows.recipes import override, parse_settings, recipe

UNMARKED = [
    name for name in DOCUMENTS if any(b.mark is None and b.language in COMMANDS for b in blocks(name))
]
MARKS = re.compile(r"not run in tests: \S.*|run by (?P<test>tests/\S+\.py)|from (?P<file>\S+)")
CLASSES = ("cat", "dog", "horse")
"""A class differs from the others by its colour."""
BEFORE = """
import random
import knowledge_transfer as kt

kt.run = lambda *_, **__: kt.open("store/runs/NAME")
my_model = lambda files: [[random.random() for _ in range(8)] for file in files]
"""
"""What the Python of a page takes for granted."""


def test_every_block_says_what_it_is() -> None:
    """A block without a language would be copied by readers and seen by no test."""
    for name in DOCUMENTS:
        for block in blocks(name):
            assert block.language in (*COMMANDS, *SHOWN), block.place
            if block.language in SHOWN:
                assert not re.search(r"^\$ ", block.text, re.MULTILINE), f"{block.place}: a command as output"


def test_every_mark_is_true() -> None:
    for block in commands():
        if block.mark is None:
            continue
        mark = MARKS.fullmatch(block.mark)
        assert mark, f"{block.place}: {block.mark}"
        if mark["test"]:
            assert Path(block.document).name in (ROOT / mark["test"]).read_text(), block.place
        if mark["file"]:
            file = (ROOT / mark["file"]).read_text()
            assert stripped(block.text) in stripped(file), f"{block.place}: not as in {mark['file']}"
        for path in re.findall(r"tests/\S+\.py", block.mark):
            assert (ROOT / path).is_file(), f"{block.place}: {path}"


def stripped(text: str) -> str:
    """Without indentation and empty lines: on a page, the formatter takes a method for a function."""
    return "\n".join(filter(None, map(str.strip, text.splitlines())))


def test_only_commands_of_ours_and_python_run_here() -> None:
    """Other blocks need a mark: this file can't run them."""
    for block in commands():
        if block.mark is None:
            assert block.language in ("sh", "python"), block.place
            if block.language == "sh":
                assert all(words[0] == "knowledge-transfer" for words in lines(block)), block.place


def lines(block: Block) -> list[list[str]]:
    """The commands of a block, as words."""
    joined = block.text.replace("\\\n", " ").splitlines()
    return [words for line in joined if (words := shlex.split(line, comments=True))]


def photograph(path: Path, seed: int, kind: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 80, (40, 48, 3), dtype=np.uint8)
    noise[..., kind] += 120
    Image.fromarray(noise).save(path, quality=95)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the blocks name: photographs with and without labels, a run, vectors."""
    place = tmp_path_factory.mktemp("desk")
    for folder, each in (("photos", 40), ("labelled", 15), ("test", 6)):
        for kind, name in enumerate(CLASSES):
            for i in range(each):
                seed = 1000 * len(folder) + 100 * kind + i
                photograph(place / folder / name / f"{i:02}.jpg", seed, kind)
    for i in range(6):
        photograph(place / "new-photos" / f"{i}.jpg", i, i % len(CLASSES))
    shutil.copy(place / "new-photos" / "0.jpg", place / "photo.jpg")
    with zipfile.ZipFile(place / "more.zip", "w") as packed:
        packed.write(place / "new-photos" / "1.jpg", "1.jpg")
    words = [
        *TINY[:-1],
        "cluster.k=6",
        "data.image_size=32",
        "evaluate.protocols=[few-label]",
        "finetune.baseline=false",
        f"data.unlabelled=folder:{place / 'photos'}",
        f"data.train=folder:{place / 'labelled'}",
        f"data.test=folder:{place / 'test'}",
        f"store={place / 'store'}",
    ]
    run_chain(override(recipe("digits"), parse_settings(words)), "NAME")
    return place


@pytest.mark.parametrize("document", UNMARKED)
def test_the_blocks_run(
    document: str, desk: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(desk)
    shutil.copytree(desk / "store", desk / "STORE", dirs_exist_ok=True)  # pages about stores name one so
    for block in blocks(document):
        if block.mark is not None or block.language not in COMMANDS:
            continue
        if block.language == "python":
            code = f"{BEFORE}{block.text}"
            done = subprocess.run(
                [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300
            )
            assert done.returncode == 0, f"{block.place}: {done.stderr}"
            continue
        for words in lines(block):
            run = words[1] == "run" and not any(word.startswith("--dry-run") for word in words)
            assert main([*words[1:], *(["--dry-run"] if run else [])]) == 0, f"{block.place}: {words}"
