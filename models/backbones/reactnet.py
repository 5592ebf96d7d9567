"""ReActNet-A (Liu et al., arXiv 2003.03488): MobileNet-v1's layers with 1-bit weights and activations.

Every convolution between real-valued shortcuts multiplies signs. Real-valued are the first convolution, batch
norms, the shifts and slopes of the activations, the shortcuts, and all layers on top of the last map. Latent
weights are kept in float32 for training. A forward pass uses only one sign per weight and one scale per
output channel.

Two-step binarisation (Martinez et al., arXiv 2003.11535) trains with `real_weights` first, then without. Both
forms have the same `state_dict`.

A sign is decided by a comparison, so a small error before it becomes an error of 2. Therefore nothing here
runs in low precision: blocks and the first convolution turn autocast off. A 1-bit convolution sums products
of -1 and +1, which float32 and TF32 do exactly, and multiplies by the scale afterwards. bf16 would not do,
because it rounds most whole numbers above 256, and a sum has up to 9216 terms
(docs/decisions/0023-signs-in-float32.md).

Symbols: x (B, C, h, w), b a learned threshold per channel, u = x + b, w (out, in, k, k) latent weights, alpha
scale.

Departures from the authors' code: the sign of 0 is +1. In theirs it is 0, a third value. Latent weights start
symmetric about 0. Theirs start in [0, 0.001), so all signs are equal. As in theirs, 3 x 3 convolutions are
padded with zeros.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_input, conv2d_weight

from models.backbones.backbone import SMALL, Backbone, in_float32, scaled

_BLOCKS = (1, 2, 2, 6, 2)
"""Number of blocks of layer1 to layer5. Each layer doubles the channels. All but the first halve the side."""


def reactnet(image_size: int, width: float, in_channels: int) -> Backbone:
    """conv1, layer1 to layer5: 32, 64, 128, 256, 512 and 1024 channels times `width`. From 8 px up.

    conv1 ends with a batch norm, without a non-linearity. Below 64 px its stride is 1 instead of 2.
    """
    inputs = scaled(32, width)
    convolution = nn.Conv2d(in_channels, inputs, 3, 1 if image_size < SMALL else 2, padding=1, bias=False)
    stages: dict[str, nn.Module] = {"conv1": FirstConvolution(convolution, nn.BatchNorm2d(inputs))}
    channels = {"conv1": inputs}
    for number, count in enumerate(_BLOCKS, start=1):
        outputs = 2 * inputs
        blocks = [ReActBlock(inputs, outputs, 1 if number == 1 else 2)]
        blocks += [ReActBlock(outputs, outputs, 1) for _ in range(count - 1)]
        stages[f"layer{number}"], channels[f"layer{number}"] = nn.Sequential(*blocks), outputs
        inputs = outputs
    return Backbone(stages, channels)


class _Sign(torch.autograd.Function):
    """Forward: +1 for u >= 0, else -1. Backward: the derivative of Bi-Real net's piecewise polynomial.

    The polynomial is -1 below -1, 2u + u^2 on [-1, 0), 2u - u^2 on [0, 1), and 1 above. Its derivative is
    max(0, 2 - 2 |u|).
    """

    @staticmethod
    def forward(ctx: Any, u: Tensor) -> Tensor:
        ctx.save_for_backward(u)
        return torch.where(u >= 0, 1.0, -1.0).to(u.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        u: Tensor = ctx.saved_tensors[0]
        return gradient * (2 - 2 * u.abs()).clamp_min(0)


class _Binary(torch.autograd.Function):
    """Forward: alpha sign(w), with alpha the mean of |w| over an output channel. Backward: straight through.

    The gradient passes where |w| <= 1. Alpha counts as a constant.
    """

    @staticmethod
    def forward(ctx: Any, w: Tensor) -> Tensor:
        ctx.save_for_backward(w)
        return _signs(w) * _scale(w)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        w: Tensor = ctx.saved_tensors[0]
        return gradient * (w.abs() <= 1)


class _BinaryConvolved(torch.autograd.Function):
    """Forward: alpha (x * sign(w)), where * is the convolution. Backward: that of the convolution x * wb.

    wb = alpha sign(w) are the binary weights, and their gradient goes straight through to w, as in `_Binary`.
    The sums of x * sign(w) are whole numbers. In x * wb each product would be rounded first, in TF32 to 11
    bits.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.where = stride, padding
        return F.conv2d(x, _signs(w), None, stride, padding) * _scale(w)[:, 0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, w = ctx.saved_tensors
        of_x = of_w = None
        if ctx.needs_input_grad[0]:
            of_x = conv2d_input(x.shape, _signs(w) * _scale(w), gradient, *ctx.where)  # type: ignore[no-untyped-call]
        if ctx.needs_input_grad[1]:
            of_w = conv2d_weight(x, w.shape, gradient, *ctx.where) * (w.abs() <= 1)  # type: ignore[no-untyped-call]
        return of_x, of_w, None, None


def _signs(w: Tensor) -> Tensor:
    """(out, in, k, k) -> -1 or +1. A zero counts as +1."""
    return torch.where(w >= 0, 1.0, -1.0).to(w.dtype)


def _scale(w: Tensor) -> Tensor:
    """Alpha: (out, in, k, k) -> (out, 1, 1, 1)."""
    return w.abs().mean(dim=(1, 2, 3), keepdim=True)


def sign(u: Tensor) -> Tensor:
    """Signs of activations: u of any shape -> -1 or +1. Gradient as in Bi-Real net (arXiv 1808.00278)."""
    s: Tensor = _Sign.apply(u)
    return s


def binary(w: Tensor) -> Tensor:
    """1-bit weights: (out, in, k, k) -> -alpha or +alpha. Alpha is the mean of |w| in each output channel."""
    wb: Tensor = _Binary.apply(w)
    return wb


class FirstConvolution(nn.Sequential):
    """A real-valued convolution and a batch norm, in float32 under autocast too and without TF32 on a GPU."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, S, S) float32 -> (B, out, S / stride, S / stride) float32."""
        with in_float32(x), _without_tf32():
            y: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
            return y


@contextmanager
def _without_tf32() -> Iterator[None]:
    """Turn TF32 off. PyTorch uses it for float32 convolutions on a GPU. It rounds inputs to 11 bits."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


class RSign(nn.Module):
    """sign(x + b). The threshold -b of each channel is learned and starts at 0."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.b = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> the same shape, -1 or +1."""
        return sign(x + self.b.view(-1, 1, 1))


class RPReLU(nn.Module):
    """PReLU(x - gamma) + zeta. Shifts and slope are learned per channel and start at 0 and at 0.25."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(channels))
        self.slope = nn.Parameter(torch.full((channels,), 0.25))
        self.zeta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> the same shape."""
        return F.prelu(x - self.gamma.view(-1, 1, 1), self.slope) + self.zeta.view(-1, 1, 1)


class BinaryConvolution(nn.Conv2d):
    """A convolution of signs with binary weights, without bias.

    Attributes:
        real_weights: whether the real-valued weights are used (step 1 of two-step binarisation).
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
        self.real_weights = False

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, h, w) of -1 and +1 -> (B, out, h / stride, w / stride)."""
        if self.real_weights:
            return F.conv2d(x, self.weight, None, self.stride, self.padding)
        y: Tensor = _BinaryConvolved.apply(x, self.weight, self.stride, self.padding)
        return y


class ReActBlock(nn.Module):
    """A 3 x 3, then a 1 x 1 convolution, each with a real-valued shortcut around it and an RPReLU after it.

    If the channels double, there are two 1 x 1 convolutions side by side, each with the shortcut. So no
    shortcut needs a convolution. If the side halves, the first shortcut is averaged over 2 x 2 places.

    Args:
        inputs: channels of x.
        outputs: the same number, or twice as many.
        stride: of the 3 x 3 convolution, 1 or 2.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.sign1 = RSign(inputs)
        self.conv3x3, self.norm3x3 = BinaryConvolution(inputs, inputs, 3, stride), nn.BatchNorm2d(inputs)
        # An odd side is rounded up, as in the convolution. The last average then covers only the places that
        # exist.
        self.pool = nn.AvgPool2d(2, ceil_mode=True) if stride == 2 else nn.Identity()
        self.prelu1, self.sign2 = RPReLU(inputs), RSign(inputs)
        copies = outputs // inputs
        self.conv1x1 = nn.ModuleList(BinaryConvolution(inputs, inputs, 1) for _ in range(copies))
        self.norm1x1 = nn.ModuleList(nn.BatchNorm2d(inputs) for _ in range(copies))
        self.prelu2 = RPReLU(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) -> (B, outputs, h / stride, w / stride), in float32 under autocast too."""
        with in_float32(x):
            x = self.prelu1(self.norm3x3(self.conv3x3(self.sign1(x))) + self.pool(x))
            s = self.sign2(x)
            pairs = zip(self.conv1x1, self.norm1x1, strict=True)
            y: Tensor = self.prelu2(
                torch.cat([norm(convolution(s)) + x for convolution, norm in pairs], dim=1)
            )
            return y


def binary_convolutions(module: nn.Module) -> list[BinaryConvolution]:
    """The 1-bit convolutions of a module. A real-valued network has none."""
    return [m for m in module.modules() if isinstance(m, BinaryConvolution)]
