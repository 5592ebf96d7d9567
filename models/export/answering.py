"""What every exported file computes: squares of uint8 pixels in, probabilities and features out.

The crop, the scale, the normalisation and the temperature are inside, so that a user can't get them wrong.
What stays outside is `About.preprocessing`: how an image file becomes a square.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from data.reading import stored_size
from models.backbones.reactnet import binary, binary_convolutions
from models.network import Network

Pixels = NDArray[np.uint8]
Answer = Callable[[Pixels], tuple[NDArray[np.float32], NDArray[np.float32]]]
"""(N, S, S, C) uint8 squares -> (N, classes) probabilities and (N, D) features, both float32."""


@dataclass(frozen=True)
class About:
    """What a user of an exported file has to know.

    Attributes:
        classes: names of the classes, in the order of the probabilities.
        preprocessing: how an image file becomes the square that the file takes, JSON values.
    """

    classes: tuple[str, ...]
    preprocessing: Mapping[str, Any]


class Answering(nn.Module):
    """A network with everything from pixels to probabilities. It computes in float32, on the CPU.

    Args:
        network: has a classifier. It is copied.
        image_size: side of the images that the network sees, px.
        temperature: T of softmax(logits / T), above 0.
    """

    def __init__(self, network: Network, image_size: int, temperature: float = 1.0) -> None:
        super().__init__()
        assert network.classes is not None, "an exported network has a classifier"
        self.network = copy.deepcopy(network).cpu().eval()
        self.size, self.side, self.channels = image_size, stored_size(image_size), network.channels
        self.temperature = temperature
        for layer in binary_convolutions(self.network):
            if not layer.real_weights:  # other programs know no 1-bit weights: write +alpha and -alpha
                layer.weight.data, layer.real_weights = binary(layer.weight.data), True
        for tensor in (*self.network.parameters(), *self.network.buffers()):
            tensor.requires_grad_(False)
            # The file formats expect the usual order of values, not channels-last.
            tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
        self.eval()

    @property
    def binary(self) -> bool:
        """Whether the network has 1-bit convolutions."""
        return bool(binary_convolutions(self.network))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(N, S, S, C) uint8, S = `side` -> probabilities (N, classes) and features (N, D), float32."""
        start = round((self.side - self.size) / 2)
        if start:
            images = images[:, start : start + self.size, start : start + self.size]
        x = images.permute(0, 3, 1, 2).to(torch.float32) / 255
        features = x
        for name, output in self.network.outputs(x):
            x = output
            if name == "features":
                features = output
        return torch.softmax(x / self.temperature, dim=1), features

    def example(self, count: int = 2) -> Tensor:
        """Squares of random pixels: (count, S, S, C) uint8."""
        noise = np.random.default_rng(0).integers(0, 256, (count, self.side, self.side, self.channels))
        return torch.from_numpy(noise.astype(np.uint8))

    def answer(self, pixels: Pixels) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The same for arrays, as an `Answer`."""
        with torch.inference_mode():
            probabilities, features = self(torch.from_numpy(pixels))
        return probabilities.numpy(), features.numpy()
