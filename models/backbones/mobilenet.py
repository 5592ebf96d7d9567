"""MobileNetV3-Large (Howard et al., arXiv 1905.02244, table 1), as in torchvision.

Below 64 px the first layer and layer1 keep the side, so 32 px end at 4 x 4 places.

Departures: batch norms use torch's usual momentum of 0.1 instead of 0.01. Short trainings end before an
average over 100 steps has forgotten its initial value. Weights are initialised by the number of inputs of a
unit, not of its outputs. A unit of a depthwise convolution has one output, but torch counts all of them.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from models.backbones.backbone import SMALL, Backbone, scaled

_LAYERS: tuple[tuple[tuple[int, int, int, bool, bool, int], ...], ...] = (
    ((3, 64, 24, False, False, 2), (3, 72, 24, False, False, 1)),
    ((5, 72, 40, True, False, 2), (5, 120, 40, True, False, 1), (5, 120, 40, True, False, 1)),
    (
        (3, 240, 80, False, True, 2), (3, 200, 80, False, True, 1), (3, 184, 80, False, True, 1),
        (3, 184, 80, False, True, 1), (3, 480, 112, True, True, 1), (3, 672, 112, True, True, 1),
    ),
    ((5, 672, 160, True, True, 2), (5, 960, 160, True, True, 1), (5, 960, 160, True, True, 1)),
)  # fmt: skip
"""Blocks of layer1 to layer4: kernel, expanded, output channels, squeeze-excite?, hard swish?, stride."""
_FIRST = (3, 16, 16, False, False, 1)
_LAST = 960
_UNITS = 1280


class SqueezeExcite(nn.Module):
    """x times a gate per channel: hard sigmoid of W2 relu(W1 mean(x)) (Hu et al. 2018).

    The layer between W1 and W2 has a quarter of the channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        middle = _divisible(channels // 4)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            _initialised(nn.Conv2d(channels, middle, 1)),
            nn.ReLU(inplace=True),
            _initialised(nn.Conv2d(middle, channels, 1)),
            nn.Hardsigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, h, w) -> the same shape."""
        y: Tensor = x * self.gate(x)
        return y


class InvertedResidual(nn.Module):
    """Expand, convolve each channel by itself, squeeze and excite, project. x is added if shapes allow.

    Args:
        inputs: channels of x.
        kernel: side of the depthwise convolution's kernel.
        expanded: channels inside.
        outputs: channels of the output.
        excite: whether there is a `SqueezeExcite`.
        swish: hard swish instead of ReLU.
        stride: of the depthwise convolution.
    """

    def __init__(
        self, inputs: int, kernel: int, expanded: int, outputs: int, excite: bool, swish: bool, stride: int
    ) -> None:
        super().__init__()
        self.adds = stride == 1 and inputs == outputs
        layers = [] if expanded == inputs else _convolution(inputs, expanded, swish=swish)
        layers += _convolution(expanded, expanded, kernel, stride, groups=expanded, swish=swish)
        if excite:
            layers.append(SqueezeExcite(expanded))
        self.layers = nn.Sequential(*layers, *_convolution(expanded, outputs)[:2])

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) -> (B, outputs, h / stride, w / stride)."""
        y: Tensor = self.layers(x)
        return x + y if self.adds else y


def mobilenet_v3(image_size: int, width: float, in_channels: int) -> Backbone:
    """conv1, layer1 to layer4, conv2: 16, 24, 40, 112, 160, 960 channels times `width`. From 8 px up."""
    small = image_size < SMALL
    inputs = scaled(_FIRST[2], width)
    first = InvertedResidual(inputs, 3, inputs, inputs, *_FIRST[3:])
    stem = _convolution(in_channels, inputs, 3, 1 if small else 2, swish=True)
    stages: dict[str, nn.Module] = {"conv1": nn.Sequential(*stem, first)}
    channels = {"conv1": inputs}
    for number, blocks in enumerate(_LAYERS, start=1):
        modules: list[nn.Module] = []
        for kernel, expanded, base, excite, swish, stride in blocks:
            outputs = scaled(base, width)
            stride = 1 if small and number == 1 else stride
            modules.append(
                InvertedResidual(inputs, kernel, scaled(expanded, width), outputs, excite, swish, stride)
            )
            inputs = outputs
        stages[f"layer{number}"], channels[f"layer{number}"] = nn.Sequential(*modules), inputs
    last, units = scaled(_LAST, width), scaled(_UNITS, width)
    stages["conv2"], channels["conv2"] = nn.Sequential(*_convolution(inputs, last, swish=True)), last
    return Backbone(stages, channels, fc=partial(_fully_connected, last, units), fc_dim=units)


def _fully_connected(inputs: int, units: int) -> dict[str, nn.Module]:
    linear = nn.Linear(inputs, units)
    nn.init.normal_(linear.weight, std=0.01)
    nn.init.zeros_(linear.bias)
    places = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return {"fc1": nn.Sequential(places, linear, nn.Hardswish(inplace=True), nn.Dropout(0.2))}


def _convolution(
    inputs: int, outputs: int, kernel: int = 1, stride: int = 1, *, groups: int = 1, swish: bool = False
) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    activation = nn.Hardswish(inplace=True) if swish else nn.ReLU(inplace=True)
    return [_initialised(convolution), nn.BatchNorm2d(outputs, eps=1e-3), activation]


def _initialised(convolution: nn.Conv2d) -> nn.Conv2d:
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    return convolution


def _divisible(channels: int) -> int:
    """Round to a multiple of 8, but never down by more than a tenth (torchvision's rule)."""
    rounded = max(8, (channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8
