"""The format bits: a 1-bit network with its 1-bit weights packed, eight to a byte, for NumPy alone.

ONNX and PyTorch have no 1-bit weights. In their files each weight is a float of 32 bits, so they are not
small. This file is. Its reader (`models/export/readers/signs.py`) shows how to unpack the weights and compute
with them. The reader is not fast: speed needs a library with 1-bit convolutions, which can read this file.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.backbones.reactnet import BinaryConvolution, ReActBlock
from models.export.answering import About, Answer, Answering, Pixels
from models.export.readers import signs

FOLDER = "bits"


def refusal(model: Answering) -> str | None:
    """Why a model can't have this format, as a clause; None if it can."""
    described = model.network.description()
    if not model.binary:
        return "the network has no 1-bit weights"
    if described["backbone"] != "reactnet" or described["head"] or described["input"] == "lightness":
        return "the reader knows only reactnet with a linear classifier, on colours or bands"
    return None


def write(model: Answering, about: About, folder: Path, images: Pixels) -> dict[str, Any]:
    """Write the folder bits: model.npz and reader.py."""
    place = folder / FOLDER
    place.mkdir()
    network = model.network
    arrays: dict[str, NDArray[Any]] = {
        name: tensor.numpy() for name, tensor in network.state_dict().items() if tensor.is_floating_point()
    }
    blocks = []
    for name, layer in network.named_modules():
        if isinstance(layer, BinaryConvolution):
            weight = arrays.pop(f"{name}.weight")  # +alpha or -alpha, one alpha per output channel
            arrays[f"{name}.bits"] = np.packbits(weight >= 0)
            arrays[f"{name}.scale"] = np.abs(weight[:, 0, 0, 0])
        elif isinstance(layer, ReActBlock):
            blocks.append([name, layer.conv3x3.stride[0], len(layer.conv1x1)])
    first: Any = network.backbone.stages["conv1"]
    config = about.as_json() | {"blocks": blocks, "first_stride": first[0].stride[0]}
    arrays["config"] = np.array(json.dumps(config))
    np.savez(place / "model.npz", **arrays)  # type: ignore[arg-type]  # keywords are arrays
    (place / "reader.py").write_text(inspect.getsource(signs), encoding="utf-8")
    return {}


def answer(folder: Path, threads: int) -> Answer:
    """Load the folder as a user would. NumPy's own number of threads counts, not `threads`."""
    return signs.Reader(folder / FOLDER / "model.npz").answer
