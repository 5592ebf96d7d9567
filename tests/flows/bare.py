"""Environments that have a few packages and nothing of ours, to load exported files in.

The packages have the versions of this environment, so uv finds them in its cache.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from data.sources import open_source
from flows.__main__ import main

IMAGES = 500
"""Number of images whose answers are compared."""
PHOTOGRAPHS = 100
"""How many of them are parts of photographs."""
ORIENTATION = 0x0112
"""EXIF's tag that says how an image is turned."""
TOLERANCE = 1e-5
"""Largest difference of a probability."""


def interpreter(folder: Path, *packages: str) -> Path:
    """Make an environment with some packages and what they need, and return its interpreter."""
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if beside.exists() else shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not there; pip install uv")
    python = folder / "environment" / "bin" / "python"
    wanted = [f"{name}=={version(name)}" for name in packages]
    for words in (
        ["venv", "--python", sys.executable, str(folder / "environment")],
        ["pip", "install", "--python", str(python), *wanted],
    ):
        done = subprocess.run([uv, *words], cwd=folder, capture_output=True, text=True, timeout=1800)
        assert done.returncode == 0, done.stderr
    return python


def run(python: Path, *words: str, place: Path) -> str:
    """Run an interpreter in a folder, without our packages on its path, and return its stdout."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [str(python), "-s", "-B", "-W", "ignore", *words]
    done = subprocess.run(command, cwd=place, env=kept, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    return done.stdout


def packages_of(python: Path) -> set[str]:
    """The names of the packages that an environment has."""
    code = (
        "from importlib.metadata import distributions as d; print(*{x.metadata['Name'].lower() for x in d()})"
    )
    return set(run(python, "-c", code, place=python.parent).split())


def photos(folder: Path) -> list[Path]:
    """Write `IMAGES` image files, and return them in the order of their names.

    Most are digits as PNG, those of the test first. The last ones are parts of photographs as JPEG, of any
    size and aspect ratio. Some of these are grey, and most are turned by EXIF.
    """
    folder.mkdir()
    number = 0
    for role in ("test", "train"):
        source = open_source("digits", role)
        entries = source.entries()[: IMAGES - PHOTOGRAPHS - number]
        for pixels in source.read(entries):
            Image.fromarray(pixels).save(folder / f"{number:04}.png")
            number += 1
    draws, wholes = np.random.default_rng(0), load_sample_images().images
    for number in range(IMAGES - PHOTOGRAPHS, IMAGES):
        whole = wholes[number % len(wholes)]
        height, width = draws.integers(10, 400, 2)
        top, left = (draws.integers(0, whole.shape[i] - side) for i, side in enumerate((height, width)))
        part = Image.fromarray(whole[top : top + height, left : left + width])
        turned = Image.Exif()
        turned[ORIENTATION] = number % 8 + 1
        path = folder / f"{number:04}.jpg"
        (part.convert("L") if number % 7 == 0 else part).save(path, quality=90, exif=turned)
    return sorted(folder.iterdir())


def predicted(model: str, folder: Path, out: Path) -> np.ndarray:
    """The probabilities (N, 10) that `predict` gives for the photos of a folder, in the same order."""
    assert main(["predict", model, str(folder), "--all", "--out", str(out)]) == 0
    found = pd.read_parquet(out).sort_values("uri")
    assert found["reason"].isna().all()
    return found[[f"p_{digit}" for digit in range(10)]].to_numpy()


def same(found: np.ndarray, expected: np.ndarray) -> None:
    """Check that two programs answered alike: equal probabilities, and equal classes for all images."""
    assert len(expected) == IMAGES
    assert np.ptp(expected, axis=0).max() > 1000 * TOLERANCE  # what an image shows makes a difference
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)
    assert (found.argmax(1) == expected.argmax(1)).all()
