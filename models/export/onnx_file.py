"""The format onnx: one file in float32, for ONNX Runtime and whatever else reads ONNX.

Inputs: `images`, (batch, S, S, C) uint8. Outputs: `probabilities` (batch, classes) and `features` (batch, D),
float32. Metadata: `classes` and `preprocessing`, as JSON.
"""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.backbones.smallconv import SpaceToDepth
from models.export import runtime
from models.export.answering import About, Answer, Answering, Pixels

FILE = "model.onnx"
OPSET = 18
"""ONNX's version of the operators. Runtimes of 2023 and later know it."""


def write(model: Answering, about: About, folder: Path, images: Pixels) -> dict[str, Any]:
    """Write model.onnx with a dynamic batch named `batch`."""
    with _quiet():
        program = torch.onnx.export(
            _strided(model),
            (model.example(),),
            dynamo=True,
            opset_version=OPSET,
            input_names=["images"],
            output_names=["probabilities", "features"],
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
            verbose=False,
        )
    assert program is not None
    program.save(str(folder / FILE), external_data=False)
    describe(folder / FILE, about)
    return {}


def describe(path: Path, about: About) -> None:
    """Add classes and pre-processing to a file's metadata."""
    import onnx

    model = onnx.load(path)
    # What the exporter notes of our source code is of no use to others.
    for node in (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.value_info):
        del node.metadata_props[:]
    for node in model.graph.node:
        node.ClearField("doc_string")
    onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in about.as_json().items()})
    onnx.checker.check_model(model)
    onnx.save(model, path)


def answer(folder: Path, threads: int) -> Answer:
    """Load the file as a user would.

    Args:
        folder: where the file is.
        threads: number of threads of ONNX Runtime.
    """
    return runtime.session(folder / FILE, threads)


class _EvenSides(nn.Module):
    """Pads odd sides with a row of zeros, as `SpaceToDepth` does."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h or h + 1, w or w + 1)."""
        h, w = x.shape[2:]
        return F.pad(x, (0, w % 2, 0, h % 2)) if h % 2 or w % 2 else x


def _strided(model: Answering) -> Answering:
    """The same function, with a convolution of stride 2 in place of space to depth and a dense convolution.

    ONNX Runtime would transpose six dimensions for it. In 8 bits, that took a quarter of a small network's
    time. PyTorch keeps the dense convolution, because it is faster there.
    """
    found = copy.deepcopy(model)
    for part in found.network.modules():
        if isinstance(part, nn.Sequential) and len(part) > 1 and isinstance(part[0], SpaceToDepth):
            part[0], part[1] = _EvenSides(), _over_pixels(part[1])
    return found


def _over_pixels(dense: nn.Module) -> nn.Conv2d:
    """The convolution over pixels that equals one over blocks of 2 x 2 pixels."""
    assert isinstance(dense, nn.Conv2d)
    assert (dense.stride, dense.dilation, dense.groups) == ((1, 1), (1, 1), 1)
    outputs, channels, kernel, _ = dense.weight.shape
    padding = 2 * int(dense.padding[0])
    found = nn.Conv2d(channels // 4, outputs, 2 * kernel, 2, padding, bias=dense.bias is not None)
    blocks = dense.weight.view(outputs, channels // 4, 2, 2, kernel, kernel)  # dy, dx in a block; y, x of it
    found.weight.data = blocks.permute(0, 1, 4, 2, 5, 3).reshape(found.weight.shape).contiguous()
    if dense.bias is not None:
        found.bias = dense.bias
    return found.requires_grad_(False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter: it warns of its own deprecations, and logs what no user can act on."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
