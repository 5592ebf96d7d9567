"""Realistic folders: a quarter of the files can't be decoded, and many others are unusual but valid."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import TINY, Command, settings
from PIL import Image


def _encoded(mode: str, kind: str, seed: int, **options: object) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (20, 24, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, kind, **options)
    return file.getvalue()


def write_odd(folder: Path) -> set[str]:
    """Fill a folder with unusual images -> names of those that can't be decoded."""
    exif = Image.Exif()
    exif[0x0112] = 6  # to be displayed rotated
    deep = io.BytesIO()
    Image.fromarray(np.random.default_rng(9).integers(0, 65535, (20, 24), dtype=np.uint16)).save(deep, "PNG")
    fine = {
        "grey.jpg": _encoded("L", "JPEG", 0),
        "cmyk.jpg": _encoded("CMYK", "JPEG", 1),
        "turned.jpg": _encoded("RGB", "JPEG", 2, exif=exif),
        "progressive.jpg": _encoded("RGB", "JPEG", 3, progressive=True),
        "palette.png": _encoded("P", "PNG", 4),
        "alpha.png": _encoded("RGBA", "PNG", 5),
        "grey-alpha.png": _encoded("LA", "PNG", 6),
        "bits.png": _encoded("1", "PNG", 7),
        "deep.png": deep.getvalue(),
        "frames.gif": _encoded("P", "GIF", 10),
        "photo.webp": _encoded("RGB", "WEBP", 11),
        "photo.bmp": _encoded("RGB", "BMP", 12),
        "photo.tiff": _encoded("RGB", "TIFF", 13),
        "png-named.jpg": _encoded("RGB", "PNG", 14),
        "ünïcode ☃.png": _encoded("RGB", "PNG", 15),
    }
    whole = _encoded("RGB", "JPEG", 20)
    broken = {
        "empty.jpg": b"",
        "cut.jpg": whole[: len(whole) // 2],
        "cut.png": _encoded("RGB", "PNG", 21)[:80],
        "page.jpg": b"<html><body>404</body></html>",
        "zeros.png": bytes(4096),
    }
    folder.mkdir()
    for name, content in {**fine, **broken}.items():
        (folder / name).write_bytes(content)
    return set(broken)


@pytest.fixture(params=["written", "collected"])
def odd(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, set[str] | None]:
    """A folder of odd images and, if known, which of them can't be decoded."""
    folder = tmp_path / "odd"
    if request.param == "written":
        return folder, write_odd(folder)
    collected: Path = request.getfixturevalue("odd_images")
    shutil.copytree(collected, folder)
    return folder, None


def test_too_many_broken_images_stop_the_run_and_a_raised_bound_lets_it_through(
    command: Command, odd: tuple[Path, set[str] | None], tmp_path: Path
) -> None:
    folder, broken = odd
    given = settings(
        *TINY, f"data.train=folder:{folder}", "data.test=null", "cluster.k=4", "pretext.batch_size=8"
    )
    refused = command("run", *given)
    assert refused.returncode == 2
    (line,) = [line for line in refused.stderr.splitlines() if line.startswith("knowledge-transfer: ")]
    assert "max_rejected" in line
    assert "Traceback" not in refused.stderr
    assert not list((tmp_path / "store").glob("artifacts/*/*"))

    done = command("run", *given, *settings("data.max_rejected=0.5"), "--json")
    assert done.returncode == 0, done.stderr
    (manifest,) = (tmp_path / "store").glob("artifacts/manifest/*")
    used = pq.read_table(manifest / "images.parquet").to_pylist()
    rejected = pq.read_table(manifest / "rejected.parquet").to_pylist()
    assert all(row["reason"] for row in rejected)
    if broken is not None:
        assert {row["uri"] for row in rejected} == broken
        assert len(used) == 15
        (turned,) = [row for row in used if row["uri"] == "turned.jpg"]
        assert (turned["width"], turned["height"]) == (20, 24)
    stages = {row["stage"] for row in json.loads(done.stdout)["stages"]}
    assert {"manifest", "pretext", "embed", "cluster", "assign", "transfer", "scores", "report"} <= stages
