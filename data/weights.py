"""Weights that somebody else trained: which files they are in, and whether the files are whole.

This module does not import torch. `locate` reads no tensor, so a run can check its weights before any work.
The forms of a specification are:

    PATH.safetensors      tensors by name
    PATH.pth, .pt, .bin   a state dict that torch saved; it is read with weights_only
    FOLDER                config.json, and model.safetensors or pytorch_model.bin, as timm and the hub write
    timm:NAME             weights that timm names; they are on a hub, so they need a download
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.errors import ConfigError

KEY = "pretext.weights"
HUB = "timm:"
PICKLED = (".pth", ".pt", ".bin", ".tar")
FILES = ("model.safetensors", "pytorch_model.bin", "model.pth")
"""The files of tensors that a folder may have. The first one that is there is read."""
_POINTER = b"version https://git-lfs"
_MOST_HEADER = 100_000_000
ELSEWHERE = (
    "compute the features of the images with the program that these weights are from, and give them by "
    "pretext.method=external"
)


@dataclass(frozen=True)
class Weights:
    """Where foreign weights are.

    Attributes:
        spec: as the user wrote it.
        file: the file of tensors; None for `timm:NAME`, which is not on this machine yet.
        config: the content of the folder's config.json; empty without a folder.
        card: the fields at the top of the folder's README.md, such as `license`.
    """

    spec: str
    file: Path | None
    config: Mapping[str, Any] = field(default_factory=dict)
    card: Mapping[str, str] = field(default_factory=dict)

    @property
    def hub(self) -> str | None:
        """The name that timm knows these weights by; None if they are a file."""
        return self.spec.removeprefix(HUB) if self.file is None else None

    @property
    def licence(self) -> str | None:
        """The licence that the folder names; None if nothing says it."""
        inner = self.config.get("pretrained_cfg")
        found = (inner if isinstance(inner, dict) else {}).get("license")
        found = found or self.config.get("license") or self.card.get("license")
        return str(found) if found else None


def locate(spec: str) -> Weights:
    """Find the files of weights, and check that they are whole, as far as that needs no reading of tensors.

    Args:
        spec: `pretext.weights`.

    Raises:
        ConfigError: there is no such file, its form is unknown, or a part of it is missing.
    """
    if spec.startswith(HUB):
        if not spec.removeprefix(HUB):
            raise ConfigError(f"{KEY} = {spec}: name the weights, such as timm:resnet18.a1_in1k")
        return Weights(spec, None)
    path = Path(spec).expanduser()
    if not path.exists():
        raise ConfigError(f"{KEY} = {spec}: there is no such file or folder")
    if not path.is_dir():
        _whole(spec, path)
        return Weights(spec, path)
    config = _json(spec, path / "config.json")
    found = next((path / name for name in FILES if (path / name).is_file()), None)
    if found is None:
        parts = sorted(path.glob("*.index.json"))
        if parts:
            raise ConfigError(
                f"{KEY} = {spec}: its tensors are in several files, which are not read; join them"
            )
        raise ConfigError(f"{KEY} = {spec}: the folder has none of {', '.join(FILES)}")
    _whole(spec, found)
    return Weights(spec, found, config, _front_matter(path / "README.md"))


def stamp(spec: str) -> str:
    """A value that changes whenever the weights may have changed: name, size and time of the file.

    Raises:
        ConfigError: as for `locate`.
    """
    found = locate(spec)
    if found.file is None:
        return spec
    state = found.file.stat()
    return json.dumps([str(found.file), state.st_size, state.st_mtime_ns, dict(found.config)], default=str)


def _json(spec: str, path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(
            f"{KEY} = {spec}: the folder has no config.json; name the file of tensors, and set "
            "pretext.backbone"
        )
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{KEY} = {spec}: config.json can't be read: {error}") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{KEY} = {spec}: config.json is not an object")
    return found


def _front_matter(path: Path) -> dict[str, str]:
    """The plain fields between the two lines of dashes at the top of a model card."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return {}
    top = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    rows = re.findall(r"^(\w+): *(\S.*)$", top[1], re.MULTILINE) if top else []
    return {name: value.strip().strip("'\"") for name, value in rows}


def _whole(spec: str, path: Path) -> None:
    """Refuse half a file, without reading its tensors."""
    with path.open("rb") as file:
        first = file.read(64)
    size = path.stat().st_size
    if first.startswith(_POINTER):
        raise ConfigError(
            f"{KEY} = {spec}: {path.name} is a pointer of Git LFS, not the weights; run git lfs pull"
        )
    again = "the download may have stopped: get it again"
    if path.suffix == ".safetensors":
        header = int.from_bytes(first[:8], "little") if len(first) >= 8 else 0
        if not 2 <= header <= _MOST_HEADER:
            raise ConfigError(f"{KEY} = {spec}: {path.name} is not a file of safetensors; {again}")
        with path.open("rb") as file:
            file.seek(8)
            text = file.read(header)
        try:
            rows = json.loads(text)
            ends = [row["data_offsets"][1] for name, row in rows.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            raise ConfigError(f"{KEY} = {spec}: {path.name} has no whole header; {again}") from None
        wanted = 8 + header + max(ends, default=0)
        if size != wanted:
            raise ConfigError(f"{KEY} = {spec}: {path.name} has {size:,} of {wanted:,} bytes; {again}")
    elif path.suffix in PICKLED:
        if not size or (first.startswith(b"PK") and not zipfile.is_zipfile(path)):
            raise ConfigError(f"{KEY} = {spec}: {path.name} ends too early ({size:,} bytes); {again}")
    else:
        raise ConfigError(
            f"{KEY} = {spec}: is neither .safetensors nor {', '.join(PICKLED)}, nor a folder with config.json"
        )
