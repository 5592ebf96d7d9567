"""Open what an export wrote, and read what it says of itself. Only opening it imports torch."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from data.errors import ConfigError
from models.export import FORMATS, INSTALL

if TYPE_CHECKING:
    from models.export.answering import Answer

T = TypeVar("T")
ABOUT = "about.json"
"""The extra file of model.pt2 with classes and pre-processing."""
SUFFIXES = (".onnx", ".pt2")
WEIGHTS = ("config.json", "model.safetensors")
"""Files of a folder of the format safetensors that are read. A reader.py in it is not run."""


def is_exported(place: Path) -> bool:
    """Whether a file or folder has the form of an export: .onnx, .pt2, or a folder with `WEIGHTS`."""
    if place.is_dir():
        return all((place / name).is_file() for name in WEIGHTS) and not (place / "model.json").exists()
    return place.suffix in SUFFIXES and place.is_file()


def contents(place: Path) -> list[Path]:
    """The files of an export that decide its answers."""
    return [place / name for name in WEIGHTS] if place.is_dir() else [place]


def told(place: Path) -> dict[str, Any]:
    """Read what `About.as_json` said when an export was written: `classes` and `preprocessing`.

    Args:
        place: model.onnx, model-int8.onnx, model.pt2 or weights, under any name.

    Raises:
        ConfigError: it can't be read, a package is missing, or no export wrote it.
    """
    about = _readable(place, _about)
    if not {"classes", "preprocessing"} <= about.keys():
        raise ConfigError(
            f"model {str(place)!r} does not say how images are prepared, so no export wrote it; give the "
            "run, or a file that `knowledge-transfer export` wrote"
        )
    return about


def open_file(place: Path) -> Answer:
    """Load an export.

    Args:
        place: as for `told`.

    Raises:
        ConfigError: it can't be loaded, or a package is missing.
    """
    return _readable(place, _answer)


def _readable(place: Path, read: Callable[[Path], T]) -> T:
    """Call a function that reads an export.

    Raises:
        ConfigError: it failed.
    """
    if place.suffix == ".onnx" and FORMATS["onnx"].missing:
        raise ConfigError(f"model {str(place)!r} needs ONNX Runtime; install it with: {INSTALL}")
    try:
        return read(place)
    except Exception as error:  # the libraries raise nearly anything
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"model {str(place)!r} can't be loaded ({reason}); export it again") from None


def _about(place: Path) -> dict[str, Any]:
    if place.is_dir():
        config = json.loads((place / "config.json").read_text(encoding="utf-8"))
        named = {"classes": config.get("classes") or config.get("label_names")}  # timm has its own key
        return {key: value for key, value in {**config, **named}.items() if value}
    if place.suffix == ".onnx":
        from models.export.runtime import metadata

        found = metadata(place)
        return {key: json.loads(found[key]) for key in ("classes", "preprocessing") if key in found}
    with zipfile.ZipFile(place) as archive:
        for name in archive.namelist():
            if name.endswith(f"/extra/{ABOUT}"):
                about: dict[str, Any] = json.loads(archive.read(name))
                return about
    return {}


def _answer(place: Path) -> Answer:
    if place.is_dir():
        from models.export.safetensors_folder import load

        return load(place)
    if place.suffix == ".onnx":
        from models.export.runtime import session

        return session(place, 0)
    from models.export.pt2 import load as load_program

    return load_program(place)
