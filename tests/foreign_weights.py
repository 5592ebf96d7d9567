"""Networks of other libraries with random weights, as these libraries write them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from models.augment import centre
from models.network import Network


def shaken(network: nn.Module, seed: int = 0) -> nn.Module:
    """Give a network random weights and statistics in which no part is trivial."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if not tensor.is_floating_point():
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith("running_var"):
                tensor.copy_(1 + 0.3 * noise.abs())
            elif "gamma" in name:
                tensor.copy_(0.5 + 0.2 * noise)
            else:
                tensor.add_(0.05 * noise)
    return network.eval()


def timm_folder(place: Path, name: str, seed: int = 0, **options: Any) -> nn.Module:
    """Write a network of timm with random weights into a folder, and return it."""
    import timm
    from timm.models import save_for_hf

    network = shaken(timm.create_model(name, pretrained=False, num_classes=10, **options), seed)
    place.mkdir(parents=True, exist_ok=True)
    save_for_hf(network, str(place), safe_serialization=True)
    return network


def photograph(width: int = 97, height: int = 71, seed: int = 0) -> bytes:
    """A PNG with smooth random colours."""
    small = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(file, "PNG")
    return file.getvalue()


def seen(network: Network, files: list[bytes], layer: str = "features") -> NDArray[np.float32]:
    """The features of image files by our loader and our pre-processing: (N, D) float32."""
    rule = network.rule
    squares = torch.from_numpy(np.stack([rule.square(file) for file in files]))
    with torch.inference_mode():
        found: NDArray[np.float32] = network.eval().features(centre(squares, rule.size), layer).numpy()
    return found
