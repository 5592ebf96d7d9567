"""A whole run on digits, shrunk to seconds, and its test images as files of every form."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from conftest import TINY
from in_process import Made, run_chain
from PIL import Image

from data.sources import open_source
from flows.recipes import nest, override, recipe


@dataclass(frozen=True)
class TinyDigits:
    """The run, and its 360 test images.

    Attributes:
        ran: the run.
        place: a folder with `photos` (PNG files, named by their uri), `photos.zip` and `photos.parquet`.
        uris: of the test images.
    """

    ran: Made
    place: Path
    uris: list[str]

    @property
    def run(self) -> str:
        """Folder of the run."""
        return str(self.ran.folder)

    @property
    def store(self) -> str:
        """Folder of the store."""
        return str(self.ran.store.root)


def tiny_digits(place: Path, changes: Mapping[str, Any] | None = None) -> TinyDigits:
    """Run the recipe `digits` in a store in `place`.

    Args:
        place: an existing folder.
        changes: settings that differ from the usual ones, by dotted key.
    """
    over: dict[str, Any] = {"store": str(place / "store"), "finetune": {"baseline": False}}
    for pair in TINY:
        key, _, value = pair.partition("=")
        nest(over, key, json.loads(value))
    # Exported files compute in float32. On a CPU with bf16, the run would not, and answers would differ.
    over |= {"evaluate": {"protocols": ["few-label"]}, "compute": {"device": "cpu", "precision": "fp32"}}
    for key, value in (changes or {}).items():
        section, _, name = key.partition(".")
        over[section] = {**over.get(section, {}), name: value}
    ran = run_chain(override(recipe("digits"), over), "tiny")
    source = open_source("digits", "test")
    photos = place / "photos"
    photos.mkdir()
    entries = source.entries()
    contents = []
    for entry, pixels in zip(entries, source.read(entries), strict=True):
        path = photos / f"{Path(entry.uri).name}.png"
        Image.fromarray(pixels).save(path)
        contents.append({"bytes": path.read_bytes(), "path": path.name})
    with zipfile.ZipFile(place / "photos.zip", "w") as archive:
        for path in photos.iterdir():
            archive.write(path, path.name)
    pq.write_table(pa.table({"image": contents}), place / "photos.parquet")
    return TinyDigits(ran, place, [entry.uri for entry in entries])
