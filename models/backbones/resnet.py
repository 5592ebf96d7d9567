"""ResNets (He et al. 2016) in torchvision's form: in a bottleneck the stride lies on the 3 x 3 convolution (v1.5).

Below 64 px the first layer is a 3 x 3 convolution with stride 1 and the max-pool is left out, as usual on CIFAR.
"""

from __future__ import annotations

from torch import Tensor, nn

from models.backbones.backbone import SMALL, Backbone, scaled


def resnet18(image_size: int, width: float, in_channels: int) -> Backbone:
    """conv1 and layer1 to layer4; 512 features times `width`; from 8 px up."""
    return _resnet((2, 2, 2, 2), False, image_size, width, in_channels)


def resnet50(image_size: int, width: float, in_channels: int) -> Backbone:
    """conv1 and layer1 to layer4 of bottlenecks; 2048 features times `width`; from 8 px up."""
    return _resnet((3, 4, 6, 3), True, image_size, width, in_channels)


class Residual(nn.Module):
    """relu(branch(x) + shortcut(x)): two 3 x 3 convolutions, or a bottleneck of 1 x 1, 3 x 3 and 1 x 1.

    Args:
        inputs: channels of x.
        middle: channels inside the branch; a bottleneck gives four times as many out.
        stride: of the first 3 x 3 convolution.
        bottleneck: which of the two.
    """

    def __init__(self, inputs: int, middle: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        outputs = 4 * middle if bottleneck else middle
        if bottleneck:
            self.branch = nn.Sequential(
                *_convolution(inputs, middle, 1), nn.ReLU(inplace=True),
                *_convolution(middle, middle, 3, stride), nn.ReLU(inplace=True),
                *_convolution(middle, outputs, 1),
            )  # fmt: skip
        else:
            self.branch = nn.Sequential(
                *_convolution(inputs, middle, 3, stride), nn.ReLU(inplace=True),
                *_convolution(middle, outputs, 3),
            )  # fmt: skip
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else nn.Sequential(*_convolution(inputs, outputs, 1, stride))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) -> (B, outputs, h / stride, w / stride)."""
        y: Tensor = self.relu(self.branch(x) + self.shortcut(x))
        return y


def _resnet(blocks: tuple[int, ...], bottleneck: bool, image_size: int, width: float, in_channels: int) -> Backbone:
    inputs = scaled(64, width)
    stages: dict[str, nn.Module] = {}
    widths = {"conv1": inputs}
    if image_size < SMALL:
        stages["conv1"] = nn.Sequential(*_convolution(in_channels, inputs, 3), nn.ReLU(inplace=True))
        pool: list[nn.Module] = []
    else:
        stages["conv1"] = nn.Sequential(*_convolution(in_channels, inputs, 7, 2), nn.ReLU(inplace=True))
        pool = [nn.MaxPool2d(3, 2, padding=1)]
    for number, count in enumerate(blocks, start=1):
        middle = scaled(64 * 2 ** (number - 1), width)
        modules = [*pool] if number == 1 else []
        for block in range(count):
            modules.append(Residual(inputs, middle, 2 if number > 1 and block == 0 else 1, bottleneck))
            inputs = 4 * middle if bottleneck else middle
        stages[f"layer{number}"], widths[f"layer{number}"] = nn.Sequential(*modules), inputs
    return Backbone(stages, widths)


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return convolution, nn.BatchNorm2d(outputs)
