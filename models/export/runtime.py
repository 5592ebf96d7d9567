"""Open ONNX files with ONNX Runtime, on the CPU. This module does not import torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.export.answering import Answer, Floats, Pixels


def session(path: Path, threads: int) -> Answer:
    """Load an ONNX file with the inputs and outputs of `models.export.onnx_file`. 0 threads: one per core."""
    opened = _opened(path, threads)

    def run(pixels: Pixels) -> tuple[Floats, Floats]:
        found, features = opened.run(["probabilities", "features"], {"images": pixels})
        return found, features

    return run


def metadata(path: Path) -> dict[str, str]:
    """The metadata of any ONNX file."""
    return dict(_opened(path, 1).get_modelmeta().custom_metadata_map)


def _opened(path: Path, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors only
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
