"""DeepCluster-v2: banks, spherical k-means into prototypes, loss in loops, resuming."""

from __future__ import annotations

import math

import pytest
import torch
from method_checks import prepared, progress, toy, trained
from torch.nn import functional as F

from data.draws import Draws
from data.errors import ConfigError
from models.augment import two_views
from models.configs.deepcluster_v2 import DeepClusterV2
from models.method import Batch, make_pretext

N, K, d = 48, 6, 16
INDEX = 7 * torch.arange(N) + 3


def make(**options):
    given = {
        "width": 0.25,
        "prototypes": K,
        "projection": d,
        "small_crops": 2,
        "crop_min": 0.6,
        "jitter": 0.0,
        "grey": 0.0,
        "optimizer": "adamw",
        "learning_rate": 3e-3,
    }
    return make_pretext(DeepClusterV2(**given | options), 16, seed=0)


def sweep():
    for rows in torch.arange(N).split(20):
        yield Batch(toy(N)[0][rows], INDEX[rows])


def project(method, x):
    return F.normalize(method.projector(method.network(x)), dim=1)


def batch_of(method, rows):
    batch = Batch(toy(N)[0][rows], INDEX[rows])
    return method.prepare(batch, Draws(7, "test", 0, batch.index.numpy()))


def test_banks_begin_with_two_views_of_every_image():
    method = make().train()
    method.before_epoch(progress(), sweep)
    method.eval()
    views = two_views(toy(N)[0], Draws(0, "memory", 0, INDEX.numpy()), method.config, 16)
    expected = project(method, views).detach().view(2, N, d)
    torch.testing.assert_close(method.memory.bank, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(expected[0], expected[1])
    assert (method.codes(sweep) >= 0).all()  # no image is left out


def test_labels_are_the_nearest_prototypes_of_their_heads_bank():
    method = make()
    method.before_epoch(progress(), sweep)
    C = method.prototypes.weight.view(3, K, d)
    torch.testing.assert_close(C.norm(dim=2), torch.ones(3, K))
    for j in range(3):
        assert torch.equal(method.memory.labels[j], (method.memory.bank[j % 2] @ C[j].T).argmax(dim=1))
    assert not torch.equal(C[0], C[2])  # the same bank from another start
    first = C.clone()
    method.before_epoch(progress(epoch=1), sweep)
    assert not torch.equal(first, method.prototypes.weight.view(3, K, d))


def test_the_loss_is_the_mean_over_heads_and_crops():
    method = make().eval()
    method.before_epoch(progress(), sweep)
    rows = torch.tensor([5, 40, 0, 13])
    method.memory.labels[1, 40] = -100
    batch = batch_of(method, rows)
    expected, count = 0.0, 0
    for crop in [crop for crops in batch.views for crop in crops.split(4)]:
        z = project(method, crop).detach()
        for j in range(3):
            for b, row in enumerate(rows.tolist()):
                label = int(method.memory.labels[j, row])
                if label != -100:
                    scores = [float(z[b] @ method.prototypes.weight[j * K + c]) / 0.1 for c in range(K)]
                    expected += math.log(sum(map(math.exp, scores))) - scores[label]
                    count += 1
    assert count == 4 * (3 * 4 - 1)
    assert method.loss(batch, progress()).total.item() == pytest.approx(expected / count, rel=1e-5)


def test_a_step_refreshes_the_rows_of_its_images_alone():
    method = make().eval()
    method.before_epoch(progress(), sweep)
    before = method.memory.bank.clone()
    rows = torch.tensor([5, 40, 0, 13])
    batch = batch_of(method, rows)
    method.loss(batch, progress())
    assert torch.equal(method.memory.bank, before)
    method.after_update(progress())
    expected = project(method, batch.views[0]).detach().view(2, 4, d)
    torch.testing.assert_close(method.memory.bank[:, rows], expected, rtol=1e-4, atol=1e-5)
    others = torch.ones(N, dtype=torch.bool).index_fill_(0, rows, False)
    assert torch.equal(method.memory.bank[:, others], before[:, others])


def test_no_gradient_reaches_the_prototypes():
    method = make().train()
    method.before_epoch(progress(), sweep)
    method.loss(batch_of(method, torch.arange(16)), progress()).total.backward()
    assert method.prototypes.weight.grad is None
    assert all(p.grad is not None for p in (*method.network.parameters(), *method.projector.parameters()))
    trained_by = {id(p) for group in method.optimizers()["main"].param_groups for p in group["params"]}
    assert id(method.prototypes.weight) not in trained_by


def test_prototypes_move_between_epochs_alone():
    states = trained(make(), toy(N)[0], epochs=2)
    weights = [state["method"]["prototypes.weight"] for state in states]
    assert torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[2], weights[3])
    assert torch.equal(weights[3], weights[5])


def test_starts_near_chance():
    method = make(prototypes=24, projection=64).train()
    method.before_epoch(progress(), lambda: iter([Batch(toy(N)[0], torch.arange(N))]))
    loss = method.loss(prepared(method, toy(N)[0]), progress())
    assert 0.8 * math.log(24) < loss.total.item() < math.log(24) + 1 / (2 * 64 * 0.1**2) + 0.3


def test_more_prototypes_than_images_are_refused():
    with pytest.raises(ConfigError, match=r"pretext\.prototypes is 49, but there are only 48 images"):
        make(prototypes=49).before_epoch(progress(), sweep)
