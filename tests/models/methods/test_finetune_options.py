"""Mix-up of the few labelled images, by a closed form, and who gets it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from method_checks import CLASSES, progress, resumes_bit_for_bit, toy
from torch import Tensor
from torch.nn import functional as F

from data.types import Artifact
from flows.recipes import override, recipe
from models.configs.finetune import Finetune
from models.method import Batch
from models.methods.finetune import FinetuneMethod
from models.network import build_network
from tasks.stages import finetune

QUICK: dict[str, Any] = {"optimizer": "adamw", "learning_rate": 3e-3, "crop_min": 0.6, "grey": 0.0}


def method(seed: int = 0, **options: Any) -> FinetuneMethod:
    network = build_network("smallconv", 16, seed=seed, width=0.25, classes=CLASSES)
    return FinetuneMethod(Finetune(**QUICK | options), network)


def test_each_class_counts_as_much_as_its_image_is_visible() -> None:
    """Images are the rows of a unit matrix, so each blended one says what it consists of."""
    made, n = method(mixup=0.7).eval(), 5
    label = torch.arange(n) % CLASSES
    views = torch.eye(n, 16 * 16).view(n, 1, 16, 16).expand(n, 3, 16, 16)
    seen: list[Tensor] = []
    made.network.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    blended = 0
    for seed in range(50):
        torch.manual_seed(seed)
        batch = Batch(torch.zeros(n, 16, 16, 3, dtype=torch.uint8), torch.arange(n), label, views)
        loss = made.loss(batch, progress()).total
        weights = seen[-1][:, 0].flatten(1)[:, :n]
        target = weights @ F.one_hot(label, CLASSES).float()
        expected = -(target * torch.log_softmax(made.network(seen[-1]), dim=1)).sum(1).mean()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        blended += bool((weights.diagonal() < 0.99).any())
    assert blended > 25


def test_it_resumes_bit_for_bit() -> None:
    images, label = toy(32)
    resumes_bit_for_bit(lambda seed: method(seed, mixup=0.4), images, target=label)


def requested(role: Any, **options: Any) -> dict[str, Any]:
    config = override(recipe("digits"), {"finetune": options})
    manifest, labels = (Artifact(kind=kind, fingerprint="a") for kind in ("manifest", "labels"))
    asked = finetune.plan(config, manifest, labels, role=role).settings["finetune"]
    return {key: value for key, value in asked.items() if "mixup" in key}


def test_networks_from_scratch_may_have_a_mixup_of_their_own() -> None:
    assert requested("student") == requested("scratch") == {}
    assert requested("student", mixup=0.2) == requested("scratch", mixup=0.2) == {"mixup": 0.2}
    assert requested("student", baseline_mixup=0.4) == {}
    assert requested("scratch", baseline_mixup=0.4) == {"mixup": 0.4}
    assert requested("scratch", mixup=0.2, baseline_mixup=0.0) == {}
