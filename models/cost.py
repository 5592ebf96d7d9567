"""What networks cost, counted without running them: parameters, and floating point operations per image.

Networks are built on torch's meta device, where tensors have shapes and no content. A multiply-add counts two.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from models.methods.configs import Teacher
from models.methods.pretext import make_pretext
from models.network import Network, build_network


@dataclass(frozen=True)
class Cost:
    """Of one network.

    Attributes:
        parameters: that are stored.
        forward: operations for one whole image.
        step: operations per image of a training step of the network's own training, forward and backward.
        widths: length of the vectors of each layer.
    """

    parameters: int
    forward: float
    step: float
    widths: dict[str, int]


BACKWARD = 2.0
"""A backward pass against a forward pass: gradients by inputs and by weights."""


def classifier_cost(backbone: str, width: float, image_size: int, classes: int) -> Cost:
    """A backbone with the architecture's fully connected layers and a classifier, trained on whole images.

    Args:
        backbone: name in `models.backbones.BACKBONES`.
        width: multiplies its channels.
        image_size: side of the images, px.
        classes: of the classifier.
    """
    with torch.device("meta"):
        network = build_network(backbone, image_size, seed=0, width=width, classes=classes)
    forward = _forward(network, image_size)
    return Cost(_parameters(network), forward, (1 + BACKWARD) * forward, _widths(network))


def pretext_cost(config: Teacher, image_size: int) -> Cost:
    """A teacher; `step` counts all views or tiles of an image, and the head that pretext alone needs.

    Args:
        config: of the method.
        image_size: side of the images, px.
    """
    with torch.device("meta"):
        method = make_pretext(config, image_size, seed=0)
    network = method.network
    seen = sum(count * _forward(network, side) for side, count in method.passes())
    head = 2.0 * (_parameters(method) - _parameters(network))  # linear layers: a multiply-add a weight
    return Cost(_parameters(network), _forward(network, image_size), (1 + BACKWARD) * (seen + head), _widths(network))


def _forward(network: Network, side: int) -> float:
    image = torch.empty(1, 3, side, side, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(image)
    return float(counter.get_total_flops())


def _parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _widths(network: Network) -> dict[str, int]:
    return {layer: network.layer_dim(layer) for layer in network.layer_names()}
