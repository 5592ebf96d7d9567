"""The interface of all backbones: convolutional layers by name, and fully connected ones that may follow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

SMALL = 64
"""Images with a side below this (px) get the small form of a backbone: a finer first layer, fewer pools."""


class Backbone(nn.Module):
    """Convolutional layers by name.

    Attributes:
        stages: name -> module, applied in this order. Each output is a feature map after the non-linearity. A
            pool that follows in the paper is at the start of the next stage.
        channels: name -> channels of its map.
        feature_dim: D, length of the pooled vector: channels of the last map, unless it has its own pooling.
        fc: makes new fully connected layers of the architecture: name -> module. The first takes the last map
            (B, D, h, w), the last returns (B, fc_dim). None if the architecture has none. They are not part
            of the backbone, because transfer drops them.
        fc_dim: width of the last fully connected layer; 0 without one.
        least_size: smallest side of an image, px.
    """

    def __init__(
        self,
        stages: Mapping[str, nn.Module],
        channels: Mapping[str, int],
        *,
        fc: Callable[[], Mapping[str, nn.Module]] | None = None,
        fc_dim: int = 0,
        least_size: int = 8,
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleDict(stages)
        self.channels = dict(channels)
        self.feature_dim = list(self.channels.values())[-1]
        self.fc = fc
        self.fc_dim = fc_dim
        self.least_size = least_size

    def outputs(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        """(B, C, S, S) -> (name, (B, c, h, w)) of every layer in order. Each one is computed on demand."""
        for name, stage in self.stages.items():
            x = stage(x)
            yield name, x

    def through(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        """(B, C, S, S) -> every map as `outputs` gives it, then ("features", (B, D) float32) of the last one.

        A network with a pooling of its own overrides this. Its D may differ from the last map's channels.
        """
        for name, output in self.outputs(x):
            x = output
            yield name, x
        yield "features", pooled(x)

    def depths(self) -> dict[nn.Parameter, int]:
        """The layer of each parameter, counted from 1 at the top."""
        count = len(self.stages)
        return {
            parameter: count - number
            for number, stage in enumerate(self.stages.values())
            for parameter in stage.parameters()
        }

    def layers(self, x: Tensor) -> dict[str, Tensor]:
        """(B, C, S, S) -> name -> (B, c, h, w), in order. c, h and w depend on the layer."""
        return dict(self.outputs(x))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, S, S) -> (B, D) float32: the last map, averaged over its places or pooled in its own way."""
        for _, output in self.through(x):
            x = output
        return x


def pooled(maps: Tensor) -> Tensor:
    """(B, c, h, w) -> (B, c) float32, the average over places. The sum is in float32 under autocast too."""
    return maps.mean(dim=(2, 3), dtype=torch.float32)


@contextmanager
def in_float32(x: Tensor) -> Iterator[None]:
    """Turn autocast off for the layers of a network that low precision would change too much.

    Does nothing if it is off already: exporters don't know this context, and the device `meta` has none.

    Args:
        x: the input of these layers. Only its device counts.
    """
    device = x.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        with torch.autocast(device, enabled=False):
            yield
    else:
        yield


def scaled(base: int, width: float) -> int:
    """`base` times `width`, rounded to a multiple of 8, and at least 8."""
    return max(8, round(base * width / 8) * 8)
