"""Trainings that start from the weights of others: same backbone and normalisation, slower lower layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from data.errors import ConfigError
from models.configs import PRETEXT
from models.configs.shared import Teacher
from models.method import make_pretext
from models.network import MEAN, Description, Network, build_network, seeded, starting
from models.optim import decay_by_depth

HALF = (0.5, 0.5, 0.5)
TRAINED = [
    name
    for name, model in PRETEXT.items()
    if issubclass(model, Teacher) and name not in ("jigsaw", "jigsaw++", "colorization")
]
SMALL: dict[str, dict[str, Any]] = {
    "deepcluster": {"clusters": 8},
    "deepcluster-v2": {"prototypes": 8},
    "dino": {"outputs": 64},
    "moco": {"queue": 64},
    "sela": {"clusters": 8},
    "swav": {"prototypes": 8},
}


def foreign(backbone: str = "smallconv", width: float = 0.25, size: int = 32) -> Network:
    with seeded(7, "foreign"):
        return Network(Description(backbone=backbone, width=width, image_size=size, mean=HALF, std=HALF))


@pytest.mark.parametrize("name", TRAINED)
def test_every_method_starts_from_the_weights(name: str) -> None:
    start = foreign()
    config: Any = PRETEXT[name].model_validate(
        {"method": name, "backbone": "smallconv", "width": 0.25, **SMALL.get(name, {})}
    )
    with starting(start):
        method = make_pretext(config, 32, seed=0)
    networks = [module for module in method.modules() if isinstance(module, Network)]
    assert networks
    for network in networks:  # copies, such as a momentum teacher, start there too
        assert network.description()["mean"] == list(HALF)
        for key, tensor in start.backbone.state_dict().items():
            assert torch.equal(network.backbone.state_dict()[key], tensor), key
    fresh = make_pretext(config, 32, seed=0).network
    assert fresh.description()["mean"] == list(MEAN)
    assert not torch.equal(next(fresh.backbone.parameters()), next(start.backbone.parameters()))


def test_weights_of_another_network_are_refused() -> None:
    for start, backbone, says in (
        (foreign(), "resnet18", "pretext.weights are of smallconv; set pretext.backbone=smallconv"),
        (foreign("resnet18", 0.25, 64), "resnet18", "another form for views or tiles of 32 px"),
    ):
        with starting(start), pytest.raises(ConfigError, match=says):
            build_network(backbone, 32, seed=0, width=0.25)
    with starting(foreign()), pytest.raises(ConfigError, match="sees lightness"):
        build_network("smallconv", 32, seed=0, width=0.25, input="lightness")


@pytest.mark.parametrize(
    "backbone", ["smallconv", "timm:test_vit", "timm:test_resnet", "timm:test_efficientnet"]
)
def test_lower_layers_learn_more_slowly(backbone: str) -> None:
    network = build_network(backbone, 32 if backbone == "smallconv" else 160, seed=0)
    head = nn.Linear(3, 3)
    optimizer = torch.optim.SGD(
        [
            {"params": list(network.backbone.parameters()), "weight_decay": 0.1},
            {"params": list(head.parameters())},
        ],
        lr=2.0,
    )
    depths = network.backbone.depths()
    assert depths.keys() == set(network.backbone.parameters())
    decay_by_depth(optimizer, depths, 0.5)
    rate = {p: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rate.keys() == {*network.backbone.parameters(), *head.parameters()}
    for parameter, depth in depths.items():
        assert rate[parameter] == pytest.approx(2.0 * 0.5**depth)
    assert min(depths.values()) == 1
    assert all(rate[p] == 2.0 for p in head.parameters())
    named = dict(network.backbone.named_parameters())
    first = next(iter(named))
    assert depths[named[first]] == max(depths.values())
    decay = {p: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert all(decay[p] == 0.1 for p in depths)
    assert all(decay[p] == 0 for p in head.parameters())
