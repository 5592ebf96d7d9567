"""Colours in CIE L*a*b*. Some networks see only the lightness L; a and b are the colour.

sRGB is that of IEC 61966-2-1, with white point D65 of the 2 degree observer. For colours of sRGB, L is in 0
to 100, a within about -86 to 98, and b within about -108 to 95. All operations are elementwise, so autocast
leaves them in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

_TO_XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
_WHITE = (0.95047, 1.0, 1.08883)
_DELTA = 6 / 29  # below the cube of this, a line replaces the cube root


def lab(x: Tensor) -> Tensor:
    """Convert sRGB to L*a*b*.

    Args:
        x: (B, 3, ...) in [0, 1], red, green, blue.

    Returns:
        (B, 3, ...) L, a and b, in the dtype of x.
    """
    rgb = _linear(x)
    fx, fy, fz = (_f(_weighted(rgb, row) / white) for row, white in zip(_TO_XYZ, _WHITE, strict=True))
    return torch.stack([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)], dim=1)


def srgb(x: Tensor) -> Tensor:
    """Convert L*a*b* to sRGB, the inverse of `lab`. Channels outside [0, 1] are clipped.

    Args:
        x: (B, 3, ...) L, a and b.

    Returns:
        (B, 3, ...) in [0, 1], in the dtype of x.
    """
    L, a, b = x.unbind(1)
    fy = (L + 16) / 116
    f = torch.stack([fy + a / 500, fy, fy - b / 200], dim=1)
    relative = torch.where(f > _DELTA, f**3, 3 * _DELTA**2 * (f - 4 / 29))
    xyz = torch.stack([relative[:, i] * white for i, white in enumerate(_WHITE)], dim=1)
    inverse = torch.linalg.inv(torch.tensor(_TO_XYZ, dtype=torch.float64)).tolist()
    linear = torch.stack([_weighted(xyz, row) for row in inverse], dim=1).clamp(0, 1)
    return torch.where(
        linear > 0.0031308, 1.055 * linear.clamp(min=1e-12) ** (1 / 2.4) - 0.055, 12.92 * linear
    )


def lightness(x: Tensor) -> Tensor:
    """(B, 3, ...) sRGB in [0, 1] -> (B, 1, ...) L / 100, in [0, 1]."""
    return (1.16 * _f(_weighted(_linear(x), _TO_XYZ[1])) - 0.16).unsqueeze(1)


def _linear(x: Tensor) -> Tensor:
    return torch.where(x > 0.04045, ((x + 0.055) / 1.055) ** 2.4, x / 12.92)


def _f(t: Tensor) -> Tensor:
    return torch.where(t > _DELTA**3, t.clamp(min=1e-12) ** (1 / 3), t / (3 * _DELTA**2) + 4 / 29)


def _weighted(x: Tensor, row: tuple[float, ...] | list[float]) -> Tensor:
    return x[:, 0] * row[0] + x[:, 1] * row[1] + x[:, 2] * row[2]
