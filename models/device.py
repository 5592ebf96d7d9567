"""The device and the precision that a configuration asks for."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from data.errors import ConfigError

Precision = Literal["fp32", "bf16"]
OF_FEATURES: Precision = "fp32"
"""The precision in which features and answers are computed, whatever `compute.precision` is.

In bf16, depending on the network, 2 % to 54 % of images have another nearest neighbour, and up to 2 % another
answer (docs/decisions/0023-signs-in-float32.md).
"""


def resolve_device(requested: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """Choose the device to compute on. `auto` takes CUDA if PyTorch finds a device, otherwise the CPU.

    Raises:
        ConfigError: `requested` is cuda, but PyTorch finds no CUDA device.
    """
    available = torch.cuda.is_available()
    if requested == "cuda" and not available:
        raise ConfigError(
            "compute.device is cuda, but PyTorch finds no CUDA device here: set compute.device=auto or cpu, "
            "or check the driver and that PyTorch was installed with CUDA"
        )
    return torch.device("cuda" if requested != "cpu" and available else "cpu")


def resolve_precision(
    requested: Literal["auto", "fp32", "bf16"], device: torch.device, trained: nn.Module | None = None
) -> Precision:
    """Choose the precision to compute in. `auto` takes bf16 if the hardware supports it natively, else fp32.

    CUDA devices compute in bf16 natively from Ampere on. CPUs do if they have AVX512-BF16 or AMX. But on CPUs
    the gradient of a depthwise convolution is slow in bf16: a step of MobileNetV3 or EfficientNet-Lite then
    takes 1.5 to 3 times as long as in fp32. So on a CPU, `auto` trains networks that have one in fp32.

    Args:
        requested: what the configuration says.
        device: where to compute.
        trained: what is trained; None: nothing is, or only the device counts.
    """
    if requested != "auto":
        return requested
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        native = native and not (trained is not None and _has_depthwise(trained))
    return "bf16" if native else "fp32"


def _has_depthwise(module: nn.Module) -> bool:
    return any(
        isinstance(each, nn.Conv2d) and 1 < each.groups == each.in_channels for each in module.modules()
    )
