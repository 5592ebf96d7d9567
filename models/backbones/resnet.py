"""ResNets (He et al. 2016) in torchvision's form: a bottleneck's stride is in its 3 x 3 convolution (v1.5).

Below 64 px the first layer is a 3 x 3 convolution with stride 1, and there is no max-pool, as usual on CIFAR.

Names with `_sk` are SimCLRv2's networks (Chen et al., arXiv 2006.10029, section 2.1 and the authors' code).
They have selective kernels instead of 3 x 3 convolutions, and the stem and shortcuts of ResNet-D (He et al.,
arXiv 1812.01187): three 3 x 3 convolutions first, and the mean over 2 x 2 places in a shortcut that halves
the side.

Departures from SimCLRv2: at stride 1 the shortcut of layer1 takes no mean, as in ResNet-D. Theirs averages
with a neighbour, which shifts by half a place. The last scale of a branch starts at 1, not at 0, as in all
ResNets here.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from models.backbones.backbone import SMALL, Backbone, scaled

_SK_RATIO = 1 / 16
_SK_LEAST = 32


class SelectiveKernel(nn.Module):
    """Two streams of 3 x 3 convolutions, mixed per channel by a gate on both (Li et al., arXiv 1903.06586).

    U = relu(bn(conv(x))) = [U1, U2];  s = mean over places of U1 + U2;  [a, b] = softmax over the two streams
    of W2 relu(bn(W1 s));  y = a U1 + b U2. As in SimCLRv2, both kernels are 3 x 3 and undilated.

    Args:
        inputs: channels of x.
        outputs: C, channels of y.
        stride: of the convolution.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        middle = max(int(_SK_RATIO * outputs), _SK_LEAST)
        self.streams = nn.Sequential(*_convolution(inputs, 2 * outputs, 3, stride), nn.ReLU(inplace=True))
        self.squeeze = nn.Sequential(*_convolution(outputs, middle, 1), nn.ReLU(inplace=True))
        self.gate = nn.Conv2d(middle, 2 * outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) -> (B, C, h / stride, w / stride)."""
        u: Tensor = self.streams(x).unflatten(1, (2, -1))
        s = u.sum(dim=1).mean(dim=(2, 3), keepdim=True)
        weights = self.gate(self.squeeze(s)).unflatten(1, (2, -1)).softmax(dim=1)
        return torch.sum(weights * u, dim=1)


class Residual(nn.Module):
    """relu(branch(x) + shortcut(x)): two 3 x 3 convolutions, or a bottleneck of 1 x 1, 3 x 3 and 1 x 1.

    Args:
        inputs: channels of x.
        middle: channels inside the branch. A bottleneck has four times as many output channels.
        stride: of the first 3 x 3 convolution.
        bottleneck: whether the branch is a bottleneck.
        selective: for a bottleneck, whether kernels are selective and shortcuts are averaged.
    """

    def __init__(
        self, inputs: int, middle: int, stride: int, bottleneck: bool, selective: bool = False
    ) -> None:
        super().__init__()
        outputs = 4 * middle if bottleneck else middle
        if bottleneck:
            spatial = (
                [SelectiveKernel(middle, middle, stride)]
                if selective
                else [*_convolution(middle, middle, 3, stride), nn.ReLU(inplace=True)]
            )
            self.branch = nn.Sequential(
                *_convolution(inputs, middle, 1),
                nn.ReLU(inplace=True),
                *spatial,
                *_convolution(middle, outputs, 1),
            )
        else:
            self.branch = nn.Sequential(
                *_convolution(inputs, middle, 3, stride),
                nn.ReLU(inplace=True),
                *_convolution(middle, outputs, 3),
            )
        same = stride == 1 and inputs == outputs
        if selective and stride > 1:  # an odd side is rounded up, as in the strided convolution of the branch
            mean = nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False)
            self.shortcut: nn.Module = nn.Sequential(mean, *_convolution(inputs, outputs, 1))
        else:
            self.shortcut = (
                nn.Identity() if same else nn.Sequential(*_convolution(inputs, outputs, 1, stride))
            )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) -> (B, outputs, h / stride, w / stride)."""
        y: Tensor = self.relu(self.branch(x) + self.shortcut(x))
        return y


def _resnet(
    image_size: int,
    width: float,
    in_channels: int,
    *,
    blocks: tuple[int, ...],
    bottleneck: bool = True,
    selective: bool = False,
) -> Backbone:
    """conv1, layer1 to layer4: 512 features times `width`, 2048 for bottlenecks. From 8 px up."""
    inputs = scaled(64, width)
    stages: dict[str, nn.Module] = {}
    widths = {"conv1": inputs}
    pool: list[nn.Module] = []
    if image_size < SMALL:
        stem: list[nn.Module] = [*_convolution(in_channels, inputs, 3)]
    else:
        pool = [nn.MaxPool2d(3, 2, padding=1)]
        stem = [*_convolution(in_channels, inputs, 7, 2)]
        if selective:
            half = scaled(32, width)
            stem = [
                *_convolution(in_channels, half, 3, 2),
                nn.ReLU(inplace=True),
                *_convolution(half, half, 3),
                nn.ReLU(inplace=True),
                *_convolution(half, inputs, 3),
            ]
    stages["conv1"] = nn.Sequential(*stem, nn.ReLU(inplace=True))
    for number, count in enumerate(blocks, start=1):
        middle = scaled(64 * 2 ** (number - 1), width)
        modules = [*pool] if number == 1 else []
        for block in range(count):
            modules.append(
                Residual(inputs, middle, 2 if number > 1 and block == 0 else 1, bottleneck, selective)
            )
            inputs = 4 * middle if bottleneck else middle
        stages[f"layer{number}"], widths[f"layer{number}"] = nn.Sequential(*modules), inputs
    return Backbone(stages, widths)


resnet18 = partial(_resnet, blocks=(2, 2, 2, 2), bottleneck=False)
resnet34 = partial(_resnet, blocks=(3, 4, 6, 3), bottleneck=False)
resnet50 = partial(_resnet, blocks=(3, 4, 6, 3))
resnet101 = partial(_resnet, blocks=(3, 4, 23, 3))
resnet152 = partial(_resnet, blocks=(3, 8, 36, 3))
resnet50_sk = partial(_resnet, blocks=(3, 4, 6, 3), selective=True)
resnet101_sk = partial(_resnet, blocks=(3, 4, 23, 3), selective=True)
resnet152_sk = partial(_resnet, blocks=(3, 8, 36, 3), selective=True)


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return convolution, nn.BatchNorm2d(outputs)
