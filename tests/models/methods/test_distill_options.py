"""What distillation can do besides learning its targets: each option by a slow rewrite or a closed form."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from method_checks import CLASSES, progress, resumes_bit_for_bit, toy, trained
from torch import Tensor, nn
from torch.nn import functional as F

from models.configs.distill import Distill
from models.ema import average
from models.methods.distill import DistillMethod
from models.network import build_network

QUICK: dict[str, Any] = {"optimizer": "adamw", "learning_rate": 3e-3, "crop_min": 0.6, "grey": 0.0}


def method(seed: int = 0, **options: Any) -> DistillMethod:
    network = build_network("smallconv", 16, seed=seed, width=0.25, classes=CLASSES)
    return DistillMethod(Distill(**QUICK | options), network)


def targets(n: int) -> tuple[Tensor, Tensor]:
    """Images (n, 16, 16, 3), and probabilities (n, C) that are neither certain nor equal."""
    images, label = toy(n)
    return images, F.one_hot(label, CLASSES) * 0.6 + 0.1


@pytest.mark.parametrize("horizon", [1e-3, 0.7, 5.0, 1e6])
def test_an_average_is_the_weighted_mean_of_all_steps(horizon: float) -> None:
    """Weights of h steps ago count exp(-h / horizon), and the first weights of all don't count."""
    network, mean = (nn.BatchNorm1d(2).double() for _ in range(2))
    nn.init.constant_(mean.weight, 1e9)
    seen, T = [], 12
    for step in range(T):
        nn.init.normal_(network.weight)
        network.running_mean.normal_()
        network.num_batches_tracked.fill_(step)
        seen.append(torch.cat([network.weight.detach(), network.running_mean]))
        average(mean, network, step, horizon)
    counts = [math.exp(-h / horizon) for h in reversed(range(T))]
    expected = sum(c * w for c, w in zip(counts, seen, strict=True)) / sum(counts)
    torch.testing.assert_close(torch.cat([mean.weight, mean.running_mean]), expected, rtol=1e-9, atol=1e-12)
    assert mean.num_batches_tracked == T - 1


def test_the_student_ends_with_the_average_of_its_weights() -> None:
    """The steps themselves are those without the average."""
    images, target = targets(32)
    plain = trained(method(), images, target=target, epochs=3)
    made = method(ema=0.5)
    states = trained(made, images, target=target, epochs=3)
    steps, name = len(plain), "network.classifier.weight"
    for own, other in zip(states[:-1], plain[:-1], strict=True):
        assert torch.equal(own["method"][name], other["method"][name])
    counts = [math.exp(-h / (0.5 * steps)) for h in reversed(range(steps))]
    weights = [state["method"][name] for state in plain]
    expected = sum(c * w for c, w in zip(counts, weights, strict=True)) / sum(counts)
    torch.testing.assert_close(made.network.classifier.weight.detach(), expected, rtol=1e-5, atol=1e-6)
    assert not torch.equal(made.network.classifier.weight, plain[-1]["method"][name])


def test_without_options_nothing_is_kept_or_requested_beside_the_student() -> None:
    """So students that were trained before keep their names."""
    assert all(name.startswith("network.") for name in method().state_dict())
    options = {"ema": 0.1}
    assert not options.keys() & Distill().settings(32).keys()
    assert Distill(**options).settings(32).items() >= options.items()


@pytest.mark.parametrize("options", [{"ema": 0.3}])
def test_it_resumes_bit_for_bit(options: dict[str, Any]) -> None:
    images, target = targets(32)
    resumes_bit_for_bit(lambda seed: method(seed, **options), images, target=target)
