"""What networks cost (parameters, bits, operations per image), computed without running them; a CPU's speed.

Networks are built on torch's meta device, where tensors have shapes but no content. A multiply-add counts as
two operations in `Cost`. It counts as one in `Operations`, as is usual when 1-bit networks are compared.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cache
from math import inf
from pkgutil import resolve_name
from time import perf_counter
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from data.errors import ConfigError
from models.backbones.reactnet import BinaryConvolution, binary_convolutions
from models.configs import PRETEXT
from models.configs.shared import Descriptor, Teacher, Transfer
from models.device import Precision, resolve_precision
from models.method import make_pretext
from models.network import Network, build_network
from models.work import Shape, timed


@dataclass(frozen=True)
class Cost:
    """Cost of one network.

    Attributes:
        parameters: number of stored parameters.
        forward: operations of a forward pass on one whole image.
        step: operations per image of one training step of this network, forward and backward.
        widths: layer name -> length of its feature vector.
        shape: how to build such a network, to measure how long it takes.
    """

    parameters: int
    forward: float
    step: float
    widths: dict[str, int]
    shape: Shape


BACKWARD = 2.0
"""Cost of a backward pass in forward passes. It computes gradients of inputs and of weights."""


def classifier_cost(
    backbone: str, width: float, image_size: int, classes: int, form: int | None = None
) -> Cost:
    """Cost of a backbone with its fully connected layers and a classifier, trained on whole images.

    Args:
        backbone: name in `models.backbones.BACKBONES`.
        width: multiplies its channels.
        image_size: side of the images, px.
        classes: number of classes.
        form: side that its strides and pools are chosen for, px; None: image_size.
    """
    with torch.device("meta"):
        network = build_network(backbone, image_size, seed=0, width=width, form=form, classes=classes)
    return _cost(network, (1 + BACKWARD) * _forward(network, image_size), backbone, width)


def pretext_cost(config: Teacher, image_size: int) -> Cost:
    """Cost of a teacher. `step` counts all views or tiles of an image, and the head that only pretext needs.

    Args:
        config: configuration of the method.
        image_size: side of the images, px.
    """
    with torch.device("meta"):
        method = make_pretext(config, image_size, seed=0)
    network = method.network
    seen = sum(count * _forward(network, side) for side, count in method.passes())
    head = 2.0 * (_parameters(method) - _parameters(network))  # linear layers: one multiply-add per weight
    step, settings = (1 + BACKWARD) * (seen + head), timed(config.model_dump())
    return _cost(network, step, config.backbone, config.width, settings)


def network_of(shape: Shape) -> Network:
    """An untrained network of this shape."""
    if shape.pretext is not None:
        config: Any = PRETEXT[shape.pretext["method"]].model_validate(shape.pretext)
        network = make_pretext(config, shape.image_size, seed=0).network
    elif shape.own_input:
        described = shape.model_dump(include={"backbone", "width", "image_size", "form", "resized"})
        network = Network.from_description(described)
    else:
        network = build_network(shape.backbone, shape.image_size, seed=0, width=shape.width, form=shape.form)
    return network if shape.classes is None else network.with_classifier(shape.classes, seed=0)


def network_cost(network: Network) -> Cost:
    """Cost of a network that is not trained here, so `step` is 0. The network is not changed."""
    described = network.description()
    with torch.device("meta"):
        same = Network.from_description(described)
    return _cost(same, 0.0, described["backbone"], described["width"])


def transfer_cost(config: Transfer, backbone: str, width: float, image_size: int, teacher: Shape) -> Cost:
    """Cost of a student that learns from the teacher itself. `step` includes the teacher's forward passes.

    Args:
        config: configuration of the method.
        backbone: name of the student's backbone.
        width: multiplies its channels.
        image_size: side of the images, px.
        teacher: the teacher's network. It may see another size of the same image.
    """
    with torch.device("meta"):
        frozen = network_of(teacher)
        network = build_network(backbone, image_size, seed=0, width=width)
        method = resolve_name(config.trainer)(config, network, frozen, seed=0)
    student, views = method.network, method.passes()
    seen = sum(count * _forward(student, side) for side, count in views)
    own = frozen.own_input or frozen.image_size != image_size
    shown = sum(count * _forward(frozen, frozen.image_size if own else side) for side, count in views)
    head = 2.0 * (_parameters(method) - _parameters(student))
    return _cost(student, (1 + BACKWARD) * (seen + head) + shown, backbone, width)


def descriptor_width(config: Descriptor, image_size: int) -> int:
    """Length D of the vector that a descriptor computes for an image.

    Args:
        config: configuration of the method.
        image_size: side of the images, px.
    """
    features = resolve_name(config.descriptor)(
        torch.zeros(1, image_size, image_size, 3, dtype=torch.uint8), config
    )
    return int(features.shape[1])


@cache
def convolution_rate(requested: Literal["auto", "fp32", "bf16"]) -> tuple[Precision, float]:
    """Measure the speed of a 3 x 3 convolution on this CPU for 0.2 s, with all of torch's threads.

    The input has 16 images of 16 x 16 px with 256 channels, as in the middle of a residual network. The
    fastest pass counts, because others may use the machine too.

    Args:
        requested: as for `models.device.resolve_precision`.

    Returns:
        The precision that the CPU computes in, and operations per second in that precision. Machines differ
        tenfold.
    """
    precision = resolve_precision(requested, torch.device("cpu"))
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    maps, kernels = (
        torch.ones(n, 256, side, side, dtype=dtype).contiguous(memory_format=torch.channels_last)
        for n, side in ((16, 16), (256, 3))
    )
    fastest, until = inf, perf_counter() + 0.2
    with torch.inference_mode():
        while perf_counter() < until:
            start = perf_counter()
            nn.functional.conv2d(maps, kernels, padding=1)
            fastest = min(fastest, perf_counter() - start)
    return precision, 2 * 9 * 256 * maps.numel() / fastest


@dataclass(frozen=True)
class Operations:
    """Multiply-adds of one image in the convolutions and linear layers of a network.

    Attributes:
        binary: BOPs, multiply-adds of two signs.
        real: FLOPs, all others.
    """

    binary: int
    real: int

    @property
    def total(self) -> float:
        """OPs = BOPs / 64 + FLOPs (Bi-Real net): a word holds 64 signs. ReActNet-A at 224 px has 0.87e8."""
        return self.binary / WORD + self.real


WORD = 64
"""Number of signs that a processor multiplies in one operation."""
FLOAT = 32
"""Bits of a real number, float32."""


def operations(network: Network, side: int | None = None) -> Operations:
    """Count a network's operations for one image, binary and real ones separately.

    Batch norms, activations and the sums of shortcuts are not counted.

    Args:
        network: in any form. It is not changed.
        side: of the image, px; None: the network's own image size.

    Returns:
        The counts. An operation is real if its weights or its activations are. So all operations are real in
        step 1 of two-step binarisation.
    """
    counts = {True: 0, False: 0}

    def count(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        binary = isinstance(layer, BinaryConvolution) and not layer.real_weights
        counts[binary] += output.numel() * layer.weight[0].numel()

    shape = copy.deepcopy(network).to("meta")
    for layer in shape.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    _pass(shape, side or network.image_size)
    return Operations(binary=counts[True], real=counts[False])


def weight_bits(network: Network) -> int:
    """Size of the network's weights at inference, in bits.

    One bit per binary weight, one float32 scale per output channel, 32 bits for everything else. Parameters
    and the running statistics of batch norms count. In step 1 of two-step binarisation all weights are real.
    """
    binary = [layer for layer in binary_convolutions(network) if not layer.real_weights]
    signs: int = sum(layer.weight.numel() for layer in binary)
    scales: int = sum(layer.out_channels for layer in binary)
    stored: int = sum(
        tensor.numel() for tensor in network.state_dict().values() if tensor.is_floating_point()
    )
    return signs + FLOAT * (scales + stored - signs)


def _cost(
    network: Network, step: float, backbone: str, width: float, pretext: dict[str, Any] | None = None
) -> Cost:
    parameters, forward = _parameters(network), _forward(network, network.image_size)
    described = network.description()
    shape = Shape(
        backbone=backbone,
        width=width,
        image_size=network.image_size,
        form=described["form"],
        resized=described["resized"],
        pretext=pretext,
        classes=network.classes,
        parameters=parameters,
        forward=forward,
    )
    return Cost(parameters, forward, step, _widths(network), shape)


def _forward(network: Network, side: int) -> float:
    """Operations of a forward pass.

    Raises:
        ConfigError: the network can't see images of this size. Networks of timm say so themselves.
    """
    with FlopCounterMode(display=False) as counter:
        try:
            _pass(network, side)
        except (AssertionError, RuntimeError) as error:
            raise ConfigError(
                f"backbone: {network.description()['backbone']} can't see images or views of {side} px: "
                f"{' '.join(str(error).split())}; change data.image_size, or the size of the views"
            ) from error
    return float(counter.get_total_flops())


def _pass(network: Network, side: int) -> None:
    with torch.no_grad():
        network.eval()(torch.empty(1, network.channels, side, side, device="meta"))


def _parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _widths(network: Network) -> dict[str, int]:
    return {layer: network.layer_dim(layer) for layer in (*network.layer_names(), "last")}
