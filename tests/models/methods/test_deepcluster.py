"""DeepCluster: relabelling by sweep, the new top layer, weights of clusters, resuming."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from method_checks import prepared, progress, toy, trained
from torch.nn import functional as F

from data.errors import ConfigError
from models.augment import centre
from models.configs.deepcluster import DeepCluster
from models.method import Batch, make_pretext
from models.methods import deepcluster

N, k = 48, 6
INDEX = 7 * torch.arange(N) + 3


def make(**options):
    given = {
        "width": 0.25,
        "clusters": k,
        "pca": 8,
        "crop_min": 0.6,
        "jitter": 0.0,
        "grey": 0.0,
        "optimizer": "adamw",
        "learning_rate": 3e-3,
    }
    return make_pretext(DeepCluster(**given | options), 16, seed=0)


def sweep():
    for rows in torch.arange(N).split(20):
        yield Batch(toy(N)[0][rows], INDEX[rows])


@pytest.fixture
def given_labels(monkeypatch):
    """Replace the clustering by given labels, and record what the method asked for."""
    asked, labels = [], [np.arange(N) % 4, np.arange(N) % 5, np.arange(N) // 12]

    def cluster(x, wanted):
        asked.append((x, wanted))
        return labels[(len(asked) - 1) % 3]

    monkeypatch.setattr(deepcluster, "cluster_apart", cluster)
    return asked, labels


def test_a_round_clusters_the_features_of_all_images(given_labels):
    from sklearn.metrics import normalized_mutual_info_score

    asked, labels = given_labels
    method = make().train()
    method.before_epoch(progress(), sweep)
    x, wanted = asked[0]
    method.eval()
    torch.testing.assert_close(torch.from_numpy(x), method.network(centre(toy(N)[0], 16)).detach())
    assert (wanted.k, wanted.pca, wanted.normalise, wanted.iterations, wanted.device) == (
        k,
        8,
        True,
        20,
        "cpu",
    )
    assert torch.equal(method.memory.index, INDEX)
    assert torch.equal(method.codes(sweep), torch.from_numpy(labels[0])[None])
    method.before_epoch(progress(1, epoch=1), sweep)
    assert asked[1][1].seed != wanted.seed
    assert method.nmi.item() == pytest.approx(normalized_mutual_info_score(labels[0], labels[1]), rel=1e-6)


def test_the_top_layer_is_drawn_anew_in_place_and_its_momentum_forgotten(given_labels):
    method = make().train()
    optimizer = method.optimizers()["main"]
    weight = method.top.weight
    tops = []
    for epoch in range(2):
        method.before_epoch(progress(epoch=epoch), sweep)
        tops.append(weight.detach().clone())
        assert weight not in optimizer.state
        assert weight.std().item() == pytest.approx(0.01, rel=0.2)
        batch = prepared(method, toy(N)[0])
        batch.index = INDEX
        method.loss(batch, progress()).total.backward()
        optimizer.step()
        assert weight in optimizer.state
    assert method.top.weight is weight
    assert not torch.equal(tops[0], tops[1])


def test_clusters_count_alike_however_many_images_they_have(given_labels):
    """In a batch of all images, the loss is the mean over clusters of the mean loss of their images."""
    _, labels = given_labels
    labels[0] = np.minimum(np.arange(N), 4)  # four clusters of one image, one of 44, one empty
    method = make()
    method.before_epoch(progress(), sweep)
    batch = prepared(method, toy(N)[0])
    order = torch.randperm(N)
    batch.views, batch.index = batch.views[order], INDEX[order]
    each = F.cross_entropy(
        method.top(method.network(batch.views)), torch.from_numpy(labels[0])[order], reduction="none"
    )
    label = labels[0][order.numpy()]
    expected = torch.stack([each[torch.from_numpy(label == c)].mean() for c in range(5)]).mean()
    loss = method.loss(batch, progress())
    torch.testing.assert_close(loss.total, expected)
    assert float(loss.terms["codes_used"]) == pytest.approx(5 / 6)
    assert abs(loss.total.item() - math.log(k)) < 0.3


def test_rounds_by_the_projects_k_means_are_repeatable():
    """K-means runs in its own process, as in a training."""
    methods = [make(), make()]
    for method in methods:
        method.before_epoch(progress(), sweep)
    assert torch.equal(*(method.memory.labels for method in methods))
    assert len(methods[0].memory.labels.unique()) == k


def test_logs_the_agreement_of_successive_clusterings(given_labels):
    from sklearn.metrics import normalized_mutual_info_score

    _, labels = given_labels
    rows = trained(make(), toy(N)[0], epochs=3)[-1]["log"]["rows"]
    nmi = {int(step): value for step, _, name, value in rows if name == "nmi"}
    assert list(nmi) == [4, 5, 6, 7, 8, 9]
    assert nmi[7] == pytest.approx(normalized_mutual_info_score(labels[1], labels[2]), rel=1e-6)


def test_more_clusters_than_images_are_refused():
    with pytest.raises(ConfigError, match=r"pretext\.clusters is 49, but there are only 48 images"):
        make(clusters=49).before_epoch(progress(), sweep)
