"""What distillation can do besides learning its targets: each option by a slow rewrite or a closed form."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from method_checks import CLASSES, prepared, progress, resumes_bit_for_bit, toy, trained
from torch import Tensor, nn
from torch.nn import functional as F

from data.errors import ConfigError
from flows.recipes import override
from models.configs.distill import Distill
from models.ema import average
from models.method import Batch
from models.methods.distill import DistillMethod
from models.network import build_network
from tasks.config import Config

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


def test_mixed_up_images_and_targets_are_blended_alike() -> None:
    """Each image is a single bright pixel, so the shares can be read off what the student sees."""
    made, n, pixels = method(mixup=0.7, temperature=0.5), 5, 16 * 16
    made.eval()
    target = torch.rand(n, CLASSES, generator=torch.Generator().manual_seed(0))
    target /= target.sum(dim=1, keepdim=True)
    views = torch.eye(n, pixels).view(n, 1, 16, 16).expand(n, 3, 16, 16)
    seen: list[Tensor] = []
    made.network.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    shares = []
    for seed in range(200):
        torch.manual_seed(seed)
        batch = Batch(torch.zeros(n, 16, 16, 3, dtype=torch.uint8), torch.arange(n), target, views)
        loss = made.loss(batch, progress()).total
        weights = seen[-1][:, 0].flatten(1)[:, :n]  # of the images, in each blended one
        assert weights.sum(dim=1).numpy() == pytest.approx(1)
        assert (weights.diagonal() >= 0.5).all()
        sharp = target**2 / (target**2).sum(dim=1, keepdim=True)
        expected = -(weights @ sharp * torch.log_softmax(made.network(seen[-1]) / 0.5, dim=1)).sum(1).mean()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        shares.append(1 - float(weights.diagonal().min()))
    # Folding a Beta distribution at a half does not change its spread about a half, 1 / (4 (2 a + 1)).
    spread = np.mean([(share - 0.5) ** 2 for share in shares if share])
    assert spread == pytest.approx(1 / (4 * (2 * 0.7 + 1)), rel=0.2)


@pytest.mark.parametrize("threshold", [None, 0.0, 0.6, 1.0])
def test_sure_predictions_of_the_average_move_the_target(threshold: float | None) -> None:
    """Slowly, image by image: (1 - w) target + w one-hot, with w rising over the first half of the steps."""
    made = method(consistency=0.8, consistency_threshold=threshold, temperature=2.0)
    images, target = targets(12)
    nn.init.normal_(made.network.classifier.weight, std=3)
    assert made.average is not None
    nn.init.normal_(made.average.classifier.weight, std=3)
    made.train()
    assert made.network.training
    assert not made.average.training
    strong, weak = prepared(made, images, target=target).views
    assert strong.shape == weak.shape
    q = torch.softmax(made.average(weak), dim=1).detach()
    least = float(q.max(dim=1).values.mean()) if threshold is None else threshold
    made.eval()
    sure = 0
    for step, share in ((0, 0.0), (3, 0.24), (10, 0.8), (19, 0.8)):
        batch = prepared(made, images, target=target)
        found = made.loss(batch, progress(step))
        rows, sure = [], 0
        for own, given in zip(q, target, strict=True):
            row = given.clone()
            if own.max() >= least:
                row *= 1 - share
                row[own.argmax()] += share
                sure += 1
            rows.append(row)
        moved = torch.stack(rows)
        moved = moved**0.5 / (moved**0.5).sum(dim=1, keepdim=True)
        logits = made.network(batch.views[0])
        expected = -(moved * torch.log_softmax(logits / 2, dim=1)).sum(dim=1).mean()
        assert found.total.item() == pytest.approx(expected.item(), rel=1e-4)
        assert float(found.terms["sure"]) == pytest.approx(sure / 12)
    assert threshold is not None or 0 < sure < 12


def test_the_average_takes_no_gradient_and_is_published_only_with_ema() -> None:
    images, target = targets(32)
    for ema in (0.0, 0.5):
        made = method(consistency=0.5, ema=ema)
        trained(made, images, target=target, epochs=2, keep=())
        assert made.average is not None
        pairs = zip(made.network.parameters(), made.average.parameters(), strict=True)
        assert all(torch.equal(own, averaged) == bool(ema) for own, averaged in pairs)
        assert all(p.grad is None for p in made.average.parameters())


def test_blended_images_have_no_label_of_their_own() -> None:
    with pytest.raises(ConfigError, match=r"distill.mixup = 0.2 blends images, but distill.alpha = 0.5"):
        override(Config(), {"distill": {"mixup": 0.2, "alpha": 0.5}})


def test_without_options_nothing_is_kept_or_requested_beside_the_student() -> None:
    """So students that were trained before keep their names."""
    assert all(name.startswith("network.") for name in method().state_dict())
    options = {"ema": 0.1, "mixup": 0.2, "consistency": 0.3, "consistency_threshold": 0.9}
    assert not options.keys() & Distill().settings(32).keys()
    assert Distill(**options).settings(32).items() >= options.items()


@pytest.mark.parametrize("options", [{"ema": 0.3}, {"mixup": 0.4}, {"consistency": 0.5}])
def test_it_resumes_bit_for_bit(options: dict[str, Any]) -> None:
    images, target = targets(32)
    resumes_bit_for_bit(lambda seed: method(seed, **options), images, target=target)
