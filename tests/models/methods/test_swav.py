"""SwAV: the whole step against lightly, codes, queue, frozen prototypes, crops, resuming."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from method_checks import lowers_the_loss, prepared, progress, toy, trained
from torch.nn import functional as F

from models.augment import centre
from models.configs.swav import SwAV
from models.method import Batch, make_pretext

B, K, d = 32, 12, 16


def make(seed=0, **options):
    given = {
        "width": 0.25,
        "prototypes": K,
        "epsilon": 0.05,
        "projection": d,
        "small_crops": 2,
        "crop_min": 0.6,
        "jitter": 0.0,
        "grey": 0.0,
        "optimizer": "adamw",
        "learning_rate": 3e-3,
    }
    return make_pretext(SwAV(**given | options), 16, seed=seed)


def images(n=B):
    return toy(n)[0]


def crops_one_by_one(method, batch):
    """Compute the (V, B, d) projections one crop at a time, so that crops share no statistics."""
    views = [crop for crops in batch.views for crop in crops.split(len(batch.index))]
    return torch.stack([F.normalize(method.projector(method.network(crop)), dim=1) for crop in views])


@pytest.mark.parametrize("small", [0, 3])
def test_the_loss_is_lightlys(small):
    from lightly.loss import SwaVLoss

    method = make(small_crops=small).eval()
    batch = prepared(method, images())
    scores = crops_one_by_one(method, batch) @ method.prototypes.weight.T
    assert scores.shape == (2 + small, B, K)
    expected = SwaVLoss()([*scores[:2]], [*scores[2:]])
    torch.testing.assert_close(method.loss(batch, progress()).total, expected[0], rtol=1e-5, atol=1e-6)


def test_a_full_queue_shares_the_prototypes_with_the_batch_and_a_filling_one_does_not():
    from lightly.loss import SwaVLoss

    method, plain = make(queue=40).eval(), make().eval()
    batch = prepared(method, images())
    without = plain.loss(batch, progress()).total
    past = F.normalize(torch.randn(2, 40, d, generator=torch.Generator().manual_seed(0)), dim=2)
    method.queue.push(past[:, :39].transpose(0, 1).flatten(1))
    assert torch.equal(method.loss(batch, progress()).total, without)
    method.queue.push(past[:, 39:].transpose(0, 1).flatten(1))
    with torch.no_grad():  # the current prototypes score the queue
        method.prototypes.weight.copy_(method.prototypes.weight.roll(1, dims=1))
    scores = crops_one_by_one(method, batch) @ method.prototypes.weight.T
    of_past = past @ method.prototypes.weight.T
    expected = SwaVLoss()([*scores[:2]], [*scores[2:]], [*of_past])
    found = method.loss(batch, progress()).total
    torch.testing.assert_close(found, expected[0], rtol=1e-5, atol=1e-6)
    assert abs(found - without) > 1e-4


def test_the_queue_holds_the_large_crops_from_its_epoch_on():
    method = make(queue=40, queue_epoch=1).train()
    batch = prepared(method, images())
    for epoch, filled in ((0, 0), (1, 32), (1, 40)):
        method.loss(batch, progress(epoch=epoch, epochs=4))
        method.after_update(progress(epoch=epoch, epochs=4))
        assert method.queue.filled == filled
    method.eval()
    z = crops_one_by_one(method, batch)
    method.loss(batch, progress(epoch=1))
    method.after_update(progress(epoch=1))
    newest = method.queue.rows.roll(B - int(method.queue.pointer), dims=0)[:B].view(B, 2, d)
    torch.testing.assert_close(newest, z[:2].transpose(0, 1), rtol=1e-4, atol=1e-5)


def test_same_scores_in_both_crops_give_the_same_codes_and_none_a_gradient():
    method = make()
    scores = torch.rand(1, B, K).expand(2, -1, -1).clone().requires_grad_()
    q = method._codes(scores)
    assert torch.equal(q[0], q[1])
    assert not q.requires_grad


def test_hard_codes_are_the_largest_entries():
    soft, hard = make().eval(), make(hard_codes=True).eval()
    batch = prepared(soft, images())
    scores = crops_one_by_one(soft, batch) @ soft.prototypes.weight.T
    label = soft._codes(scores).argmax(dim=2)
    expected = sum(
        F.cross_entropy(scores[v] / 0.1, label[i]) / (2 * 3) for i in range(2) for v in range(4) if v != i
    )
    torch.testing.assert_close(hard.loss(batch, progress()).total, expected, rtol=1e-5, atol=1e-6)
    assert abs(soft.loss(batch, progress()).total - expected) > 0.1


def test_one_pass_of_the_backbone_for_each_size_and_one_of_the_head():
    method, seen = make(small_crops=3).train(), []
    method.network.register_forward_hook(lambda module, x, y: seen.append(tuple(x[0].shape)))
    method.projector.register_forward_hook(lambda module, x, y: seen.append(len(x[0])))
    method.loss(prepared(method, images()), progress())
    assert seen == [(2 * B, 3, 16, 16), (3 * B, 3, 8, 8), 5 * B]
    assert method.passes() == [(16, 2.0), (8, 3.0)]


def test_starts_near_chance_and_reports_what_it_should():
    method = make(prototypes=64, projection=64).train()
    loss = method.loss(prepared(method, images(64)), progress())
    chance = math.log(64)
    assert 0.9 * chance < loss.total.item() < chance + 1 / (2 * 64 * 0.1**2) + 0.3
    assert 0.2 < float(loss.terms["codes_used"]) <= 1
    assert 0.3 < float(loss.terms["spread"]) < 1.05


def test_twenty_steps_lower_the_loss_while_codes_are_held():
    method = make().train()
    first = method._codes(crops_one_by_one(method, prepared(method, images())) @ method.prototypes.weight.T)
    method._codes = lambda scores: first
    lowers_the_loss(
        method, images(), floor=-(first * first.clamp_min(1e-30).log()).sum(2).mean().item(), to=0.7
    )


def test_prototypes_stand_still_in_the_first_epoch_and_have_unit_length_after_every_step():
    method = make()
    before = method.prototypes.weight.detach().clone()
    states = trained(method, images(48))
    weights = [state["method"]["prototypes.weight"] for state in states]
    assert all(torch.equal(w, before) for w in weights[:3])
    assert not any(torch.equal(a, b) for a, b in pairwise(weights[2:-1]))
    for w in weights:
        torch.testing.assert_close(w.norm(dim=1), torch.ones(K))


def test_codes_of_all_images_are_balanced_by_the_final_network():
    method = make(sinkhorn_iterations=50)
    pictures = images(50)

    def sweep():
        for rows in torch.arange(50).split(20):
            yield Batch(pictures[rows], 7 * rows + 3)

    found = method.train().codes(sweep)
    assert found.shape == (1, 50)
    assert found.dtype == torch.int64
    method.eval()
    with torch.no_grad():
        z = F.normalize(method.projector(method.network(centre(pictures, 16))), dim=1)
    Q = np.exp((z @ method.prototypes.weight.detach().T).numpy().astype(np.float64) / 0.05)
    for _ in range(50):
        Q /= Q.sum(axis=0) * K
        Q /= Q.sum(axis=1, keepdims=True) * 50
    Q /= Q.sum(axis=0)
    assert (found[0].numpy() == Q.argmax(axis=1)).mean() > 0.95
    assert len(found.unique()) > K / 2


def test_collapse_is_told_by_outputs_or_by_codes():
    method = make()
    assert method.collapsed({"spread": 0.8, "codes_used": 0.7}) is None
    assert "spread" in method.collapsed({"spread": 0.01, "codes_used": 0.7})
    assert "labels used" in method.collapsed({"spread": 0.8, "codes_used": 0.01})
    flat = {
        name: float(value)
        for name, value in method.loss(prepared(method, images()), progress()).terms.items()
    }
    assert method.collapsed(flat) is None
    with torch.no_grad():  # the images differ only in the last digits of their direction, so the loss is ln K
        method.prototypes.weight.copy_(F.normalize(1e-4 * method.prototypes.weight + torch.ones(d), dim=1))
    loss = method.loss(prepared(method, images()), progress())
    assert loss.total.item() == pytest.approx(math.log(K), rel=1e-3)
    assert "entropy of the codes 1.000" in method.collapsed(
        {name: float(v) for name, v in loss.terms.items()}
    )
