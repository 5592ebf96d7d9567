"""The format int8: an ONNX file whose convolutions and products compute in 8 bits, for CPUs.

Quantisation is static: ranges of activations are measured on a few hundred training images, without labels.
Each output channel of a weight has its own scale. Inputs and outputs are those of the format onnx.

Weights use 7 of the 8 bits. x86 processors without VNNI add two products in 16 bits. With weights of 8 bits
such a sum can overflow, and the file would answer otherwise there than where it was checked.

Some networks lose much, such as MobileNetV3. Therefore a second file leaves the weak parts in float: the
first convolution, the classifier, depthwise convolutions, and the small networks of gates (squeeze and
excite, selective kernels). Training images that were not used for the ranges decide which of the two is kept,
by how often each agrees with the float network. No label is read.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from models.export import onnx_file, runtime
from models.export.answering import About, Answer, Answering, Pixels, batches, probabilities

FILE = "model-int8.onnx"
CALIBRATED = 256
"""Number of images on which the ranges are measured, at most. The others are used to choose."""
ENOUGH = 0.99
"""If the file with everything in 8 bits agrees on this share of the images, the second file is not made."""
QUANTISED = ["Conv", "Gemm", "MatMul", "Add", "Relu", "MaxPool", "AveragePool", "Concat"]
"""Operators that compute in 8 bits. The scaling of pixels, hard swish and softmax stay in float.

With Relu among them, a convolution's range is that of the values after the ReLU, which then costs nothing.
Without it, half of the range is for negative values, and ONNX Runtime scales every map twice, in float.
"""
GATES = ("HardSigmoid", "Sigmoid", "Softmax")
POOLS = ("ReduceMean", "GlobalAveragePool")


def write(model: Answering, about: About, folder: Path, images: Pixels) -> dict[str, Any]:
    """Write model-int8.onnx.

    Args:
        model: what to write.
        about: what its users have to know.
        folder: where the file goes.
        images: (M, S, S, C) uint8 training images. The first `CALIBRATED` measure ranges, the others choose.

    Returns:
        `kept_in_float`: whether weak parts are in float; `chosen_by`: how often the file agreed.
    """
    few, others = images[:CALIBRATED], images[CALIBRATED:]
    assert len(few), "int8 needs training images to measure ranges"
    others = others if len(others) else few
    expected = probabilities(model.answer, others).argmax(1)
    with TemporaryDirectory(dir=folder) as place:
        start = prepared(model, about, Path(place))
        best: tuple[float, Path] | None = None
        for name, kept in (("all", []), ("careful", weak_parts(start))):
            made = Path(place) / f"{name}.onnx"
            quantise(start, made, few, kept)
            found = probabilities(runtime.session(made, 1), others).argmax(1)
            agreement = float((found == expected).mean())
            if best is None or agreement > best[0]:
                best = agreement, made
            if agreement >= ENOUGH:
                break
        assert best is not None
        best[1].replace(folder / FILE)
    onnx_file.describe(folder / FILE, about)
    return {"kept_in_float": best[1].stem == "careful", "chosen_by": best[0]}


def answer(folder: Path, threads: int) -> Answer:
    """Load the file as a user would; see `onnx_file.answer`."""
    return runtime.session(folder / FILE, threads)


def prepared(model: Answering, about: About, place: Path) -> Path:
    """The float network as ONNX, with the shapes of all tensors."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    onnx_file.write(model, about, place, np.zeros((0,), np.uint8))
    quant_pre_process(
        place / onnx_file.FILE, place / "shaped.onnx", skip_symbolic_shape=True, skip_optimization=True
    )
    return place / "shaped.onnx"


class _Images:
    """Gives ONNX Runtime the images to measure ranges on, batch by batch."""

    def __init__(self, images: Pixels) -> None:
        self._rest = batches(images)

    def get_next(self) -> dict[str, Pixels] | None:
        part = next(self._rest, None)
        return None if part is None else {"images": part}


def quantise(start: Path, to: Path, images: Pixels, kept: list[str]) -> None:
    """Write a network in 8 bits.

    Args:
        start: the file that `prepared` wrote.
        to: the file to write.
        images: (M, S, S, C) uint8, M >= 1, on which the ranges of values are measured.
        kept: names of the nodes that stay in float.
    """
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(_Images, CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
        pass

    with _quiet():
        quantize_static(
            start,
            to,
            Reader(images),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=QUANTISED,
            nodes_to_exclude=kept,
            calibrate_method=CalibrationMethod.MinMax,
        )


def weak_parts(path: Path) -> list[str]:
    """Names of the nodes that suffer most from 8 bits."""
    import onnx

    graph = onnx.load(path).graph
    maker = {name: node for node in graph.node for name in node.output}
    products = [node for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    kept = {products[0].name, products[-1].name}
    kept |= {node.name for node in products if _groups(node) > 1}
    for node in graph.node:
        if node.op_type in GATES:
            kept |= _up_to_pool(node, maker)
    return sorted(kept)


def _groups(node: Any) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)


def _up_to_pool(gate: Any, maker: dict[str, Any]) -> set[str]:
    """The nodes of a gate: a plain chain from a pool over all places. Empty if there is no such chain."""
    chain: set[str] = set()
    node = gate
    while node.op_type not in POOLS:
        chain.add(node.name)
        computed = [maker[name] for name in node.input if name in maker]
        if len(computed) != 1:
            return set()
        node = computed[0]
    return chain


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence ONNX Runtime, which advises preprocessing that has just been done. It uses the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
