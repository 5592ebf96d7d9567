"""Answers for images by the network in this folder. It needs torch and safetensors, and no other code.

config.json lists the operations of the network in order, and model.safetensors has its weights.

    from reader import Reader
    probabilities, features = Reader(".").answer(images)  # (N, S, S, C) uint8; S is stored_size
"""

import json
import operator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file


class Reader:
    """The network of a folder.

    Args:
        folder: has config.json and model.safetensors.
    """

    def __init__(self, folder: str | Path) -> None:
        self.config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
        self.weights = load_file(Path(folder) / "model.safetensors")
        uses = ((name, i) for i, node in enumerate(self.config["graph"]) for name in _names(node["args"]))
        self.last_use = dict(uses)

    @torch.inference_mode()
    def answer(self, images: Any) -> tuple[Any, Any]:
        """(N, S, S, C) uint8 array -> probabilities (N, classes) and features (N, D), float32 arrays."""
        values = {**self.weights, "images": torch.as_tensor(images)}

        def given(part: Any) -> Any:
            if isinstance(part, list):
                return [given(each) for each in part]
            if isinstance(part, dict):
                return values[part["value"]] if "value" in part else getattr(torch, part["torch"])
            return part

        for number, node in enumerate(self.config["graph"]):
            namespace, _, name = node["op"].partition(".")
            compute: Any = operator if namespace == "operator" else getattr(torch.ops, namespace)
            for part in name.split("."):
                compute = getattr(compute, part)
            kwargs = {key: given(value) for key, value in node["kwargs"].items()}
            values[node["name"]] = compute(*given(node["args"]), **kwargs)
            for used in _names(node["args"]):  # free what is not used any more
                if self.last_use[used] == number and used not in self.config["outputs"]:
                    values.pop(used, None)
        found, features = (values[name].numpy() for name in self.config["outputs"])
        return found, features


def _names(part: Any) -> list[str]:
    if isinstance(part, list):
        return [name for each in part for name in _names(each)]
    return [part["value"]] if isinstance(part, dict) and "value" in part else []
