"""The format onnx: one file in float32, for ONNX Runtime and whatever else reads ONNX.

Inputs: `images`, (batch, S, S, C) uint8. Outputs: `probabilities` (batch, classes) and `features` (batch, D),
float32. Metadata: `classes` and `preprocessing`, as JSON.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from models.export import runtime
from models.export.answering import About, Answer, Answering, Pixels

FILE = "model.onnx"
OPSET = 18
"""ONNX's version of the operators. Runtimes of 2023 and later know it."""


def write(model: Answering, about: About, folder: Path, images: Pixels) -> dict[str, Any]:
    """Write model.onnx with a dynamic batch named `batch`."""
    with _quiet():
        program = torch.onnx.export(
            model,
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
