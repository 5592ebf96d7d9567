"""The format safetensors: the folder weights, for whoever builds the network in PyTorch.

There are three variants. The first whose answers equal ours on random squares is written:

1. torchvision: if torchvision has the same network, the weights have its names.
2. timm: if the student is timm's and timm's own head has the same answers, the folder is timm's `local-dir:`.
3. reader: otherwise, config.json lists the operations, and reader.py (`models/export/readers/graph.py`)
   computes them with torch alone.

The first two leave normalisation and softmax to the user; config.json and the card say how. Loading alone
proves nothing: strides and pools have no weights, so MobileNetV3 for 32 px loads into torchvision's and
answers wrongly. That is why answers are compared.
"""

from __future__ import annotations

import inspect
import json
import operator
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models.backbones import TORCHVISION
from models.backbones.timm_network import parsed
from models.configs.shared import TIMM
from models.export import pt2
from models.export.answering import About, Answer, Answering, Floats, Pixels
from models.export.readers import graph

FOLDER = "weights"
EQUAL = 1e-4
"""Largest difference of equal answers, relative to the largest logit."""


def write(model: Answering, about: About, folder: Path, images: Pixels) -> dict[str, Any]:
    """Write the folder weights. Return its `library`, and the `constructor` for torchvision."""
    place = folder / FOLDER
    place.mkdir()
    name = str(model.network.description()["backbone"])
    if name in TORCHVISION and (found := as_torchvision(model)) is not None:
        save_file(_plain(found.state_dict()), place / "model.safetensors")
        arguments = {"num_classes": len(about.classes)}
        config = {"library": "torchvision", "constructor": TORCHVISION[name], "arguments": arguments}
    elif name.startswith(TIMM) and (made := as_timm(model)) is not None:
        _save_timm(made, place, about)
        return {"library": "timm"}
    else:
        config = {"library": "reader", **_written_graph(model, place)}
        source = inspect.getsource(graph)
        (place / "reader.py").write_text(source, encoding="utf-8")
    _write_config(place, config | about.as_json())
    return {key: config[key] for key in ("library", "constructor") if key in config}


def answer(folder: Path, threads: int) -> Answer:
    """Load the folder as a user would. Torch's own number of threads counts, not `threads`."""
    return load(folder / FOLDER)


def load(place: Path) -> Answer:
    """Load a folder of this format under any name. Only the reader gives features, the others (N, 0)."""
    config = json.loads((place / "config.json").read_text(encoding="utf-8"))
    library = config.get("library", "timm")
    if library == "reader":
        return graph.Reader(place).answer
    if library == "torchvision":
        import torchvision

        network = getattr(torchvision.models, config["constructor"])(**config["arguments"])
        network.load_state_dict(load_file(place / "model.safetensors"), strict=True)
    else:
        import timm

        network = timm.create_model(f"local-dir:{place}", pretrained=True)
    return _normalising(network.eval(), config["preprocessing"])


def _normalising(network: nn.Module, rule: Mapping[str, Any]) -> Answer:
    """What the card tells users of torchvision and timm to compute around the network."""
    mean, std = (torch.tensor(rule[key]).view(-1, 1, 1) for key in ("mean", "std"))
    side, size = rule["stored_size"], rule["image_size"]
    start = round((side - size) / 2)

    def run(pixels: Pixels) -> tuple[Floats, Floats]:
        x = torch.from_numpy(pixels)[:, start : start + size, start : start + size].permute(0, 3, 1, 2)
        with torch.inference_mode():
            logits = network((x / 255 - mean) / std)
        found: NDArray[np.float32] = torch.softmax(logits / rule["temperature"], 1).numpy()
        return found, np.zeros((len(found), 0), np.float32)

    return run


def as_torchvision(model: Answering) -> nn.Module | None:
    """Torchvision's network with a model's weights; None if it has no network with the same answers."""
    import torchvision

    described = model.network.description()
    if described["input"] != "rgb":
        return None
    make = getattr(torchvision.models, TORCHVISION[described["backbone"]])
    with torch.random.fork_rng(devices=[]):
        theirs = make(num_classes=described["classes"]).eval()
    ours = model.network.state_dict()
    # Both list their layers in the order of computation, so only names differ.
    if [x.shape for x in theirs.state_dict().values()] != [x.shape for x in ours.values()]:
        return None
    named = dict(zip(theirs.state_dict(), ours.values(), strict=True))
    theirs.load_state_dict(named, strict=True)
    return theirs if _equal(model, theirs) else None


def as_timm(model: Answering) -> nn.Module | None:
    """Timm's network with its own head and a model's weights; None if its answers differ."""
    import timm

    described = model.network.description()
    if described["input"] == "lightness" or described["head"] or described["fc"]:
        return None
    name, own = parsed(described["backbone"].removeprefix(TIMM))
    own_pool = own.pop("pool", None) == "own"
    inner = "backbone.stages.network."
    for options in (own,) if own_pool else (own, own | {"global_pool": "avg"}):
        given: dict[str, Any] = {
            "pretrained": False,
            "num_classes": described["classes"],
            "in_chans": model.channels,
            **options,
        }
        if getattr(timm.get_pretrained_cfg(name), "fixed_input_size", False):
            given["img_size"] = model.size
        try:
            with torch.random.fork_rng(devices=[]):
                theirs: Any = timm.create_model(name, **given).eval()
            head = theirs.pretrained_cfg["classifier"]
            named = {}
            for key, tensor in model.network.state_dict().items():
                named[key.replace(inner, "").replace("classifier.", f"{head}.")] = tensor
            theirs.load_state_dict(named, strict=True)
        except (TypeError, RuntimeError, KeyError, AssertionError):
            continue
        if _equal(model, theirs):
            found: nn.Module = theirs
            return found
    return None


def _equal(model: Answering, theirs: nn.Module) -> bool:
    """Whether another network has the same logits for random images."""
    noise = np.random.default_rng(1).random((4, model.channels, model.size, model.size), np.float32)
    x = torch.from_numpy(noise)
    network = model.network
    with torch.inference_mode():
        ours = network(x)
        try:
            found = theirs((x - network.mean) / network.std)
        except (RuntimeError, AssertionError, ValueError):
            return False
    return found.shape == ours.shape and bool((found - ours).abs().max() <= EQUAL * ours.abs().max())


def _save_timm(network: nn.Module, place: Path, about: About) -> None:
    from timm.models import save_for_hf

    save_for_hf(network, str(place), safe_serialization=True)
    config, rule = json.loads((place / "config.json").read_text(encoding="utf-8")), about.rule
    own = about.as_json()
    config |= {"label_names": own["classes"], "preprocessing": own["preprocessing"]}
    config["pretrained_cfg"] |= {
        "input_size": [len(rule.mean), rule.size, rule.size],
        "crop_pct": rule.size / rule.stored,
        "crop_mode": "squash" if rule.fit == "squash" else "center",
        "interpolation": rule.interpolation,
        "mean": list(rule.mean),
        "std": list(rule.std),
    }
    _write_config(place, config)


def _written_graph(model: Answering, place: Path) -> dict[str, Any]:
    """Write the weights under our own names. Return what else reader.py needs: the operations."""
    program = pt2.traced(model)
    signature = program.graph_signature
    held = {**program.state_dict, **program.constants}
    named = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    named |= signature.inputs_to_lifted_tensor_constants
    weights: dict[str, Tensor] = {}
    names: dict[str, str] = {}  # the program's name of a value -> ours
    nodes: list[dict[str, Any]] = []
    (images,) = signature.user_inputs
    for node in program.graph.nodes:
        if node.op == "placeholder":
            if node.name in named:
                names[node.name] = named[node.name].removeprefix("network.")
                weights[names[node.name]] = held[named[node.name]].detach().contiguous()
            else:
                assert node.name == images
                names[node.name] = "images"
        elif node.op == "call_function":
            if not node.users:  # checks of shapes
                continue
            names[node.name] = node.name
            nodes.append(
                {
                    "name": node.name,
                    "op": _operation(node.target),
                    "args": _encoded(list(node.args), names),
                    "kwargs": {key: _encoded(value, names) for key, value in node.kwargs.items()},
                }
            )
    save_file(weights, place / "model.safetensors")
    return {"graph": nodes, "outputs": [names[str(name)] for name in signature.user_outputs]}


def _operation(target: Callable[..., Any]) -> str:
    """The name of an operation, such as aten.conv2d.default or operator.add."""
    if isinstance(target, torch._ops.OpOverload):
        return str(target)
    name = target.__name__
    assert getattr(operator, name, None) is target, f"unknown operation {target}"
    return f"operator.{name}"


def _encoded(value: Any, names: Mapping[str, str]) -> Any:
    """An argument as JSON: values are {"value": name}, types of torch {"torch": name}."""
    if isinstance(value, torch.fx.Node):
        return {"value": names[value.name]}
    if isinstance(value, list | tuple):
        return [_encoded(part, names) for part in value]
    if isinstance(value, torch.dtype | torch.device | torch.layout | torch.memory_format):
        return {"torch": str(value).removeprefix("torch.")}
    assert value is None or isinstance(value, bool | int | float | str), f"unknown argument {value!r}"
    return value


def _plain(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().contiguous() for name, tensor in weights.items()}


def _write_config(place: Path, config: Mapping[str, Any]) -> None:
    text = json.dumps(config, indent=None, ensure_ascii=False)
    (place / "config.json").write_text(text + "\n", encoding="utf-8")
