"""SeLa: when it labels, labels by the authors' algorithm, loss over heads, resuming."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from method_checks import prepared, progress, toy, trained
from torch.nn import functional as F

from models.augment import centre
from models.configs.sela import SeLa
from models.method import Batch, Progress, make_pretext
from models.methods.sela import relabelling_epochs

N, K, HEADS = 48, 6, 2
INDEX = 7 * torch.arange(N) + 3


def make(**options):
    given = {
        "width": 0.25,
        "clusters": K,
        "heads": HEADS,
        "relabellings": 2,
        "spacing": "even",
        "crop_min": 0.6,
        "jitter": 0.0,
        "grey": 0.0,
        "optimizer": "adamw",
        "learning_rate": 3e-3,
    }
    return make_pretext(SeLa(**given | options), 16, seed=0)


def sweep():
    for rows in torch.arange(N).split(20):
        yield Batch(toy(N)[0][rows], INDEX[rows])


def strong_tops(method):
    """Give the classifiers a preference for some labels, so that balancing is necessary."""
    with torch.no_grad():
        for top in method.tops:
            top.weight.mul_(100)
            top.bias.copy_(torch.linspace(-1, 1, K))
    return method


@pytest.mark.parametrize(
    ("epochs", "relabellings", "spacing", "expected"),
    [
        (10, 5, "even", {0, 2, 4, 6, 8}),
        (100, 5, "quadratic", {0, 4, 16, 36, 64}),
        (4, 100, "even", {0, 1, 2, 3}),
        (3, 1, "quadratic", {0}),
    ],
)
def test_when_images_are_labelled(epochs, relabellings, spacing, expected):
    assert relabelling_epochs(epochs, relabellings, spacing) == expected


def test_labels_are_those_of_the_authors_algorithm():
    """P has the power lambda. r = (1/K) / (P c), c = (1/N) / (P^T r), and the label is argmax r P c."""
    method = strong_tops(make(tolerance=1e-6)).train()
    method.before_epoch(progress(), sweep)
    method.eval()
    with torch.no_grad():
        h = method.network(centre(toy(N)[0], 16))
        for head, top in enumerate(method.tops):
            P = F.softmax(top(h).double(), dim=1).numpy().T ** 10
            c = np.full(N, 1 / N)
            for _ in range(5000):
                r = 1 / K / (P @ c)
                c = 1 / N / (P.T @ r)
            label = (r[:, None] * P * c).argmax(axis=0)
            assert np.array_equal(method.memory.labels[head].numpy(), label)
            free = np.bincount(P.argmax(axis=0), minlength=K)
            assert np.bincount(label, minlength=K).std() < free.std()
    assert torch.equal(method.memory.index, INDEX)
    assert torch.equal(method.codes(sweep), method.memory.labels)
    assert not torch.equal(*method.memory.labels)


def test_between_its_times_labels_stay():
    method = strong_tops(make())
    method.before_epoch(Progress(0, 12, 0, 4), sweep)
    before = method.memory.labels.clone()
    assert method.changed == 1
    with torch.no_grad():
        method.tops[0].weight.copy_(method.tops[0].weight.roll(1, dims=1))
    method.before_epoch(Progress(3, 12, 1, 4), sweep)
    assert torch.equal(method.memory.labels, before)
    method.before_epoch(Progress(6, 12, 2, 4), sweep)
    changed = (method.memory.labels != before).float().mean()
    assert 0 < changed < 1
    assert method.changed == changed


def test_the_loss_is_the_mean_over_heads_at_chance_first():
    method = make().eval()
    method.before_epoch(progress(), sweep)
    rows = torch.tensor([5, 40, 0, 13])
    batch = prepared(method, toy(N)[0])
    batch.views, batch.index = batch.views[rows], INDEX[rows]
    h = method.network(batch.views)
    each = [F.cross_entropy(top(h), method.memory.labels[j, rows]) for j, top in enumerate(method.tops)]
    loss = method.loss(batch, progress()).total
    torch.testing.assert_close(loss, sum(each) / HEADS)
    assert abs(loss.item() - math.log(K)) < 0.3


def test_labels_are_new_when_it_is_time_in_a_training():
    states = trained(make(), toy(N)[0])
    labels = [state["method"]["memory.labels"] for state in states]
    assert all(torch.equal(labels[0], each) for each in labels[:6])
    assert not torch.equal(labels[5], labels[6])
    assert all(torch.equal(labels[6], each) for each in labels[6:])
