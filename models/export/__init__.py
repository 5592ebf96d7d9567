"""Formats in which a classifier is exported for other programs. Each is one file here, named in `FORMATS`.

Each file has the function `write(model, about, folder, images)`. It writes the format, and returns further
keys for its row in the card. `answer(folder, threads)` loads the format as a user would. If some models can't
have the format, `refusal(model)` says why. This module does not import torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

INSTALL = "pip install 'knowledge-transfer[export]'"


@dataclass(frozen=True)
class Format:
    """What is known of a format without loading its code.

    Attributes:
        module: has the functions above.
        file: the file, or the folder, that it writes.
        needs: packages that write and check it, besides those that are always installed.
        exact: whether its answers must equal the network's. Otherwise they may lose a little accuracy.
        binary: whether only 1-bit networks have it.
        sentence: what it is, for the card.
        beside: its name in the table of teacher and student; empty: it is not in this table.
    """

    module: str
    file: str
    needs: tuple[str, ...]
    exact: bool
    binary: bool
    sentence: str
    beside: str = ""

    @property
    def missing(self) -> list[str]:
        """The packages that are not installed."""
        return [name for name in self.needs if find_spec(name) is None]


_ONNX = ("onnx", "onnxscript", "onnxruntime")
FORMATS = {
    "onnx": Format("models.export.onnx_file", "model.onnx", _ONNX, True, False, "ONNX in float32", "ONNX"),
    "int8": Format("models.export.int8", "model-int8.onnx", _ONNX, False, False, "ONNX in 8 bits", "int8"),
    "pt2": Format("models.export.pt2", "model.pt2", (), True, False, "torch.export"),
    "safetensors": Format(
        "models.export.safetensors_folder", "weights", (), True, False, "weights, with config.json"
    ),
    "bits": Format("models.export.bits", "bits", (), True, True, "packed 1-bit weights", "1 bit, NumPy"),
}
