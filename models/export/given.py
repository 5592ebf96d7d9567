"""Open a file that an export wrote, with what it says of itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from data.errors import ConfigError
from models.export import FORMATS, INSTALL
from models.export.answering import Answer


def open_file(path: Path) -> tuple[Answer, dict[str, Any]]:
    """Load a file, and return how it answers and what `About.as_json` said.

    Args:
        path: model.onnx, model-int8.onnx or model.pt2, under any name.

    Raises:
        ConfigError: a package is missing, or no export wrote the file.
    """
    try:
        return _onnx(path) if path.suffix == ".onnx" else _pt2(path)
    except ConfigError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"model {str(path)!r} can't be loaded ({reason}); export it again") from None


def _onnx(path: Path) -> tuple[Answer, dict[str, Any]]:
    if FORMATS["onnx"].missing:
        raise ConfigError(f"model {str(path)!r} needs ONNX Runtime; install it with: {INSTALL}")
    from models.export.onnx_file import metadata, session

    return session(path, 0), _told(path, {key: json.loads(text) for key, text in metadata(path).items()})


def _pt2(path: Path) -> tuple[Answer, dict[str, Any]]:
    from models.export.pt2 import ABOUT, load

    answer, extra = load(path)
    return answer, _told(path, json.loads(extra[ABOUT] or "{}"))


def _told(path: Path, about: dict[str, Any]) -> dict[str, Any]:
    if not {"classes", "preprocessing"} <= about.keys():
        raise ConfigError(f"model {str(path)!r} does not say how images are prepared: no export wrote it")
    return about
