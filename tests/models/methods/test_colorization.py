import math

import numpy as np
import pytest
import torch
from method_checks import prepared, progress
from photographs import photographs
from torch.nn import functional as F

from data.errors import DataError
from models.colour import lab
from models.configs.colorization import Colorization
from models.losses import colorization as colour
from models.losses.colorization import Soft
from models.method import Batch, make_pretext
from models.network import Network

CENTRES = colour.in_gamut_bins()
PUBLISHED = {  # smallest and largest b of the published bins, by a
    -90: (50, 90), -80: (20, 90), -70: (0, 90), -60: (-20, 90), -50: (-30, 100), -40: (-40, 100),
    -30: (-50, 100), -20: (-50, 100), -10: (-60, 100), 0: (-70, 100), 10: (-80, 90), 20: (-80, 90),
    30: (-90, 90), 40: (-100, 90), 50: (-100, 80), 60: (-110, 80), 70: (-110, 80), 80: (-110, 70),
    90: (-110, 70), 100: (-90, 0),
}  # fmt: skip


def make(seed=0, size=16, **options):
    config = {"width": 0.25, "hidden": 16, "learning_rate": 3e-3, **options}
    return make_pretext(Colorization(**config), size, seed)


def random_colours(n=300, seed=0):
    """Colours (a, b) of random sRGB values."""
    return lab(torch.rand(n, 3, generator=torch.Generator().manual_seed(seed)))[:, 1:]


def sweep_of(images, size=8):
    def sweep():
        for start in range(0, len(images), size):
            yield Batch(images[start : start + size], torch.arange(len(images))[start : start + size])

    return sweep


# Bins


def test_there_are_313_bins_and_they_are_the_published_ones():
    expected = [(a, b) for a, (low, high) in PUBLISHED.items() for b in range(low, high + 1, 10)]
    assert len(expected) == 313
    assert [tuple(row) for row in CENTRES.long().tolist()] == expected


def test_every_colour_of_srgb_lies_amid_four_bins():
    bins = {tuple(row) for row in CENTRES.long().tolist()}
    for a, b in (random_colours(4000) // 10 * 10).long().unique(dim=0).tolist():
        assert {(a, b), (a + 10, b), (a, b + 10), (a + 10, b + 10)} <= bins


# Soft targets


@pytest.mark.parametrize("K", [1, 5, 10])
def test_encoding_is_the_slow_rewrite(K):
    ab = random_colours(60)
    z = colour.encode(ab.view(4, 15, 2), CENTRES, K)
    assert z.bins.shape == z.weight.shape == (4, 15, K)
    assert z.bins.flatten(0, 1).sort(dim=1).values.diff(dim=1).gt(0).all()  # K different bins
    for y, bins, weight in zip(ab.double(), z.bins.flatten(0, 1), z.weight.flatten(0, 1), strict=True):
        d2 = [(sum((y[i] - q[i]) ** 2 for i in (0, 1))).item() for q in CENTRES.double()]
        nearest = sorted(range(313), key=lambda q: d2[q])[:K]
        share = [math.exp(-d2[q] / (2 * 5**2)) for q in nearest]
        assert sorted(bins.tolist()) == sorted(nearest)
        for q, s in zip(nearest, share, strict=True):
            assert weight[bins.tolist().index(q)].item() == pytest.approx(s / sum(share), abs=2e-4)
        assert weight.sum().item() == pytest.approx(1, abs=1e-6)


def test_many_colours_are_encoded_in_parts(monkeypatch):
    ab = random_colours(100)
    whole = colour.encode(ab, CENTRES, 5)
    monkeypatch.setattr(colour, "_AT_ONCE", 313 * 7)
    parts = colour.encode(ab, CENTRES, 5)
    assert torch.equal(whole.bins, parts.bins)
    torch.testing.assert_close(whole.weight, parts.weight)


def test_a_bins_centre_comes_back_within_the_spacing():
    z = colour.encode(CENTRES, CENTRES, 5)
    assert torch.equal(z.bins[:, 0], torch.arange(313))
    dense = torch.zeros(313, 313).scatter_(1, z.bins, z.weight)
    back = colour.annealed_mean(dense.log().clamp(min=-1e4).T[None, :, None], CENTRES, 1.0)[0, 0]
    assert (back - CENTRES).norm(dim=1).max() < 10


# Rebalancing


def a_prior(Q=313, empty=20):
    p = torch.rand(Q, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 6
    p[:empty] = 0
    return p / p.sum()


@pytest.mark.parametrize("lam", [0.0, 0.3, 0.5, 1.0])
def test_weights_are_eq_4_and_balanced(lam):
    p = a_prior()
    w = colour.rebalancing(p, lam)
    assert (p * w).sum().item() == pytest.approx(1, abs=1e-12)
    seen = [q for q in range(313) if p[q] > 0]
    raw = {q: 1 / ((1 - lam) * p[q].item() + lam / len(seen)) for q in seen}
    scale = sum(p[q].item() * raw[q] for q in seen)
    np.testing.assert_allclose(w[seen], [raw[q] / scale for q in seen], rtol=1e-10)
    assert (w[:20] == w.max()).all()
    assert w.isfinite().all()


def test_lambda_1_weighs_all_alike_and_0_by_rarity():
    p = a_prior()
    torch.testing.assert_close(colour.rebalancing(p, 1.0), torch.ones(313, dtype=torch.float64))
    products = (p * colour.rebalancing(p, 0.0))[20:]
    torch.testing.assert_close(products, torch.full_like(products, 1 / 293))


# The loss


def logits_and_targets(B=3, g=4, K=5):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(B, 313, g, g, generator=generator, dtype=torch.float64)
    z = colour.encode(random_colours(B * g * g).view(B, g, g, 2), CENTRES, K)
    return logits, z, torch.rand(B, g, g, generator=generator, dtype=torch.float64)


def test_the_loss_is_eq_2():
    logits, z, v = logits_and_targets()
    v[1] = 0
    total = 0.0
    for b in (0, 2):
        for i in range(4):
            for j in range(4):
                dense = np.zeros(313)
                dense[z.bins[b, i, j]] = z.weight[b, i, j]
                x = logits[b, :, i, j].numpy()
                log_q = x - x.max() - np.log(np.exp(x - x.max()).sum())
                total -= v[b, i, j].item() * (dense * log_q).sum()
    assert colour.weighted_cross_entropy(logits, z, v).item() == pytest.approx(total / 32, rel=1e-5)


def test_the_loss_is_torchs_with_probabilities():
    logits, z, v = logits_and_targets()
    dense = torch.zeros(3, 4, 4, 313).scatter_(3, z.bins, z.weight).permute(0, 3, 1, 2)
    each = F.cross_entropy(logits.float(), dense, reduction="none")
    torch.testing.assert_close(
        colour.weighted_cross_entropy(logits, z, v), (v * each).mean(), rtol=1e-5, atol=0
    )


def test_equal_logits_cost_ln_313_and_nothing_to_learn_costs_nothing():
    _, z, v = logits_and_targets()
    equal = torch.zeros(3, 313, 4, 4, requires_grad=True)
    assert colour.weighted_cross_entropy(equal, z, torch.ones_like(v)).item() == pytest.approx(
        5.7462, abs=1e-4
    )
    nothing = colour.weighted_cross_entropy(equal, z, torch.zeros_like(v))
    nothing.backward()
    assert nothing.item() == 0
    assert (equal.grad == 0).all()


# Decoding


def test_decoding_lies_between_mode_and_mean_and_in_the_hull_of_the_bins():
    from scipy.spatial import Delaunay

    logits, _, _ = logits_and_targets()
    p = logits.float().softmax(dim=1).permute(0, 2, 3, 1)
    torch.testing.assert_close(colour.annealed_mean(logits, CENTRES, 1.0), p @ CENTRES, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(colour.annealed_mean(logits, CENTRES, 1e-3), CENTRES[logits.argmax(dim=1)])
    sharp = p ** (1 / 0.38)
    by_hand = (sharp / sharp.sum(dim=3, keepdim=True)) @ CENTRES
    decoded = colour.annealed_mean(logits, CENTRES, 0.38)
    torch.testing.assert_close(decoded, by_hand, atol=1e-3, rtol=1e-4)
    assert (Delaunay(CENTRES.numpy()).find_simplex(decoded.reshape(-1, 2).numpy()) >= 0).all()


# The method


def test_the_prior_is_that_of_the_coloured_images():
    images = photographs(12, 16)
    images[3] = 128
    method = make()
    method.before_epoch(progress(), sweep_of(images))
    counted = torch.zeros(313, dtype=torch.float64)
    for number, image in enumerate(images):
        if number != 3:
            ab = lab(image.permute(2, 0, 1)[None].float() / 255)[:, 1:]
            cells = ab.view(2, 4, 4, 4, 4).mean(dim=(2, 4)).permute(1, 2, 0)
            z = colour.encode(cells, CENTRES, 5)
            for bins, weight in zip(z.bins.view(-1, 5), z.weight.view(-1, 5), strict=True):
                counted[bins] += weight
    torch.testing.assert_close(method.p.double(), counted / counted.sum(), atol=1e-6, rtol=1e-4)
    assert method.p.sum().item() == pytest.approx(1, abs=1e-5)
    assert "p" in method.state_dict()
    before = method.p.clone()
    method.before_epoch(progress(epoch=1), sweep_of(photographs(4, 16)))
    assert torch.equal(method.p, before)


def test_images_without_colour_are_refused_when_there_are_no_others():
    with pytest.raises(DataError, match="no image has colour"):
        make().before_epoch(progress(), sweep_of(torch.full((4, 16, 16, 3), 77, dtype=torch.uint8)))


def test_grey_images_are_left_out_of_the_loss():
    method = make().eval()  # batch norm would let images see each other
    images = photographs(6, 16)
    method.before_epoch(progress(), sweep_of(images))
    grey = torch.full((3, 16, 16, 3), 90, dtype=torch.uint8)
    alone = method.loss(prepared(method, images), progress())
    mixed = method.loss(prepared(method, torch.cat([images, grey])), progress())
    torch.testing.assert_close(mixed.total, alone.total)
    assert mixed.terms["coloured"].item() == pytest.approx(6 / 9)
    only = method.loss(prepared(method, grey), progress())
    only.total.backward()
    assert only.total.item() == 0


def test_places_are_weighted_by_their_nearest_bin():
    method, images = make().eval(), photographs(4, 16)
    method.before_epoch(progress(), sweep_of(images))
    batch = prepared(method, images)
    views = batch.views
    logits = method.head(method.network.last_map(views.x))
    w = colour.rebalancing(method.p, 0.5)
    v = torch.zeros(4, 4, 4)
    for b in range(4):
        for i in range(4):
            for j in range(4):
                v[b, i, j] = w[(CENTRES - views.ab[b, i, j]).norm(dim=1).argmin()]
    expected = colour.weighted_cross_entropy(logits, views.target, v)
    torch.testing.assert_close(method.loss(batch, progress()).total, expected)


def test_the_network_sees_no_colour():
    method = make().eval()
    images = photographs(4, 16)
    views = prepared(method, images).views
    L = lab(views.x)[:, :1]
    repainted = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert not torch.allclose(method.network.last_map(views.x), method.network.last_map(repainted))
    grey = ((L + 16) / 116) ** 3  # of linear light, where L is above 8
    grey = torch.where(L > 8, grey, L / 903.3)
    grey = torch.where(grey > 0.0031308, 1.055 * grey ** (1 / 2.4) - 0.055, 12.92 * grey).expand(
        -1, 3, -1, -1
    )
    torch.testing.assert_close(
        method.network.last_map(grey), method.network.last_map(views.x), atol=1e-3, rtol=1e-3
    )
    assert Network.from_description(method.network.description()).description()["input"] == "lightness"


@pytest.mark.parametrize("backbone", ["smallconv", "alexnet", "vgg16_bn", "resnet18"])
@pytest.mark.parametrize("size", [16, 34])
def test_every_backbone_predicts_on_a_quarter_of_the_side_and_starts_at_ln_313(backbone, size):
    method = make(size=size, backbone=backbone, width=0.125)
    batch = prepared(method, photographs(4, size))
    logits = method.head(method.network.last_map(batch.views.x))
    assert logits.shape == (4, 313, size // 4, size // 4)
    assert batch.views.ab.shape == (4, size // 4, size // 4, 2)
    loss = method.loss(batch, progress()).total.item()
    assert 0.9 * math.log(313) < loss < math.log(313) + 0.3


def test_soft_targets_of_one_neighbour_are_hard():
    z = colour.encode(random_colours(20), CENTRES, 1)
    assert isinstance(z, Soft)
    assert (z.weight == 1).all()
