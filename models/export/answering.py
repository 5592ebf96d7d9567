"""What every exported file computes: squares of uint8 pixels in, probabilities and features out.

The central crop, the scale, the normalisation and the temperature are inside, so that a user can't get them
wrong. Steps 1 to 3 of `data.preprocessing` stay outside: how an image file becomes a square. No operator of
ONNX resizes exactly as Pillow does.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from data.preprocessing import Preprocessing, first_of_centre
from models.backbones.reactnet import binary, binary_convolutions
from models.network import Network

Scalar = TypeVar("Scalar", bound=np.generic)
Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]
Answer = Callable[[Pixels], tuple[Floats, Floats]]
"""(N, S, S, C) uint8 squares -> (N, classes) probabilities and (N, D) features, both float32."""
BATCH = 32
"""Images at a time."""


@dataclass(frozen=True)
class About:
    """What a user of an exported file has to know.

    Attributes:
        classes: names of the classes, in the order of the probabilities.
        rule: how images are prepared. Its steps 4 to 6 and the temperature are part of the file.
    """

    classes: tuple[str, ...]
    rule: Preprocessing

    def as_json(self) -> dict[str, Any]:
        """The same as JSON values, for metadata."""
        rule = self.rule
        return {
            "classes": list(self.classes),
            "preprocessing": {
                "stored_size": rule.stored,
                "image_size": rule.size,
                "mean": list(rule.mean),
                "std": list(rule.std),
                "input": rule.input,
                "temperature": rule.temperature,
                "interpolation": rule.interpolation,
                "resized": rule.resized,
                "fit": rule.fit,
                **rule.reading.recorded(),
                "steps": rule.words(),
            },
        }


class _Mean(nn.Module):
    """The mean over places. The exporter turns torch's own pool of size 1 into strides and a gather."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, 1, 1)."""
        return x.mean(dim=(2, 3), keepdim=True)


class Answering(nn.Module):
    """A network with everything from pixels to probabilities. It computes in float32, on the CPU.

    Args:
        network: has a classifier. It is copied.
        rule: how images are prepared for it.
    """

    def __init__(self, network: Network, rule: Preprocessing) -> None:
        super().__init__()
        assert network.classes is not None, "an exported network has a classifier"
        self.network = copy.deepcopy(network).cpu().eval()
        self.size, self.side, self.channels = rule.size, rule.stored, network.channels
        self.temperature = rule.temperature
        self.binary = any(not layer.real_weights for layer in binary_convolutions(network))
        for part in list(self.network.modules()):
            for name, layer in part.named_children():
                if isinstance(layer, nn.AdaptiveAvgPool2d) and layer.output_size in (1, (1, 1)):
                    setattr(part, name, _Mean())
        for layer in binary_convolutions(self.network):
            if not layer.real_weights:  # other programs know no 1-bit weights: write +alpha and -alpha
                layer.weight.data, layer.real_weights = binary(layer.weight.data), True
        for tensor in (*self.network.parameters(), *self.network.buffers()):
            tensor.requires_grad_(False)
            # The file formats expect the usual order of values, not channels-last.
            tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(N, S, S, C) uint8, S = `side` -> probabilities (N, classes) and features (N, D), float32."""
        if self.side != self.size:
            start = first_of_centre(self.side, self.size)
            images = images[:, start : start + self.size, start : start + self.size]
        features, logits = self.network.answer(images.permute(0, 3, 1, 2).to(torch.float32) / 255)
        assert logits is not None
        return torch.softmax(logits / self.temperature, dim=1), features

    def example(self, count: int = 2) -> Tensor:
        """Squares of random pixels: (count, S, S, C) uint8."""
        noise = np.random.default_rng(0).integers(0, 256, (count, self.side, self.side, self.channels))
        return torch.from_numpy(noise.astype(np.uint8))

    def answer(self, pixels: Pixels) -> tuple[Floats, Floats]:
        """The same for arrays: an `Answer`."""
        with torch.inference_mode():
            probabilities, features = self(torch.from_numpy(pixels))
        return probabilities.numpy(), features.numpy()


def batches(images: NDArray[Scalar], size: int = BATCH) -> Iterator[NDArray[Scalar]]:
    """The images, or their indices, `size` at a time."""
    for start in range(0, len(images), size):
        yield images[start : start + size]


def probabilities(answer: Answer, images: Pixels, size: int = BATCH) -> Floats:
    """(N, S, S, C) uint8 squares -> (N, classes) float32, computed `size` at a time."""
    return np.concatenate([answer(part)[0] for part in batches(images, size)])
