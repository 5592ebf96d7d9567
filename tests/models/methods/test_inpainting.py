import math

import numpy as np
import pytest
import torch
from method_checks import prepared, progress, toy, trained
from photographs import photographs
from torch.nn import functional as F

from data.errors import ConfigError
from models.configs.inpainting import Inpainting
from models.decoders import Adversary, ContextDecoder
from models.losses.adversarial import judge, persuade
from models.method import make_pretext
from models.methods.inpainting import RIM_WEIGHT, centre_square, reconstruction, squares, without_rim
from models.network import MEAN

BOTH = pytest.mark.parametrize("hole", ["centre", "blocks"])


def make(seed=0, size=16, **options):
    config = {
        "width": 0.25,
        "hidden": 32,
        "learning_rate": 3e-3,
        "blocks": 2,
        "crop_min": 1.0,
        "flip": 0.0,
        **options,
    }
    return make_pretext(Inpainting(**config), size, seed)


# Holes


def test_the_papers_hole_is_the_middle_64_of_128_px_and_its_rim_4_px_wide():
    method = make(size=128, hole="centre")
    assert (method.largest, method.overlap) == (64, 4)
    region = centre_square(128, 64)
    assert region[0, 0, 32:96, 32:96].all()
    assert region.sum() == 64 * 64
    assert without_rim(region, 4)[0, 0, 36:92, 36:92].all()
    assert without_rim(region, 4).sum() == 56 * 56


@pytest.mark.parametrize(("size", "side"), [(16, 8), (17, 8), (31, 15), (32, 16)])
def test_the_centre_square_is_central(size, side):
    region = centre_square(size, side)
    assert region.sum() == side * side
    off = region[0, 0].any(dim=0).nonzero().float().mean() - (size - 1) / 2
    assert abs(off) <= 0.5


def test_squares_are_where_the_draws_say():
    u = torch.rand(40, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    region = squares(u, 20, 3, 6)
    by_hand = np.zeros((40, 1, 20, 20), dtype=bool)
    for b in range(40):
        for n in range(3):
            side = 3 + int(u[b, n, 0] * 4)
            row, column = int(u[b, n, 1] * (21 - side)), int(u[b, n, 2] * (21 - side))
            by_hand[b, 0, row : row + side, column : column + side] = True
    np.testing.assert_array_equal(region.numpy(), by_hand)


@pytest.mark.parametrize("overlap", [0, 1, 2])
def test_the_rim_is_what_erosion_takes_off(overlap):
    from scipy.ndimage import binary_erosion

    region = squares(torch.rand(20, 4, 3, generator=torch.Generator().manual_seed(1)), 24, 5, 9)
    square = np.ones((2 * overlap + 1,) * 2, dtype=bool)
    eroded = [
        binary_erosion(r[0].numpy(), square, border_value=1) if overlap else r[0].numpy() for r in region
    ]
    np.testing.assert_array_equal(without_rim(region, overlap)[:, 0].numpy(), np.stack(eroded))


@BOTH
def test_what_is_visible_is_untouched_and_what_is_hidden_has_the_mean_colour(hole):
    views = prepared(make(hole=hole, size=32), photographs(8)).views
    visible, hidden = views.visible(), views.hidden.expand(-1, 3, -1, -1)
    assert torch.equal(visible[~hidden], views.x[~hidden])
    for channel, mean in enumerate(MEAN):
        assert (visible[:, channel][views.hidden[:, 0]] == mean).all()
    torch.testing.assert_close(views.x, photographs(8).permute(0, 3, 1, 2) / 255, atol=1e-6, rtol=0)
    assert (views.hidden & ~views.region).sum() == 0
    assert (views.region & ~views.hidden).any(dim=(1, 2, 3)).all()


@BOTH
def test_weights_are_1_where_hidden_10_on_the_rim_and_0_elsewhere(hole):
    views = prepared(make(hole=hole, size=32), photographs(8)).views
    W = views.weight()
    assert W.unique().tolist() == [0.0, 1.0, RIM_WEIGHT] == [0.0, 1.0, 10.0]
    assert torch.equal(W == 1, views.hidden)
    assert torch.equal(W == 10, views.region & ~views.hidden)


def test_blocks_take_a_bounded_area_and_lie_anywhere():
    method, images = (
        make(hole="blocks", size=32, blocks=5, area=0.25),
        torch.zeros(200, 32, 32, 3, dtype=torch.uint8),
    )
    region = torch.cat([prepared(method, images, step).views.region for step in range(3)]).float()
    share = region.mean(dim=(1, 2, 3))
    assert share.max() <= 0.25
    assert 0.08 < share.mean() < 0.25
    assert region.mean(dim=0).min() > 0  # corners too
    assert len({r.numpy().tobytes() for r in region}) > 595


def test_holes_belong_to_images_and_not_to_batches():
    method, images = make(hole="blocks"), photographs(6, 16)
    together, apart = prepared(method, images).views, prepared(method, images[:2]).views
    assert torch.equal(together.region[:2], apart.region)
    assert torch.equal(together.x[:2], apart.x)


@pytest.mark.parametrize("options", [{"overlap": 4}, {"hole": "blocks", "blocks": 60}])
def test_holes_that_a_rim_uses_up_are_refused(options):
    with pytest.raises(ConfigError, match=r"pretext.area 0.25 and pretext.overlap"):
        make(size=16, **options)


# Losses


def test_reconstruction_is_eq_1_averaged_over_the_hole():
    g = torch.Generator().manual_seed(0)
    picture, x = torch.randn(2, 2, 3, 4, 4, generator=g, dtype=torch.float64)
    W = torch.tensor([0.0, 1.0, 10.0], dtype=torch.float64)[torch.randint(3, (2, 1, 4, 4), generator=g)]
    total = count = 0.0
    for b in range(2):
        for i in range(4):
            for j in range(4):
                for c in range(3):
                    total += W[b, 0, i, j].item() * (picture[b, c, i, j].item() - x[b, c, i, j].item()) ** 2
                    count += W[b, 0, i, j].item() > 0
    assert reconstruction(picture, x, W).item() == pytest.approx(total / count, rel=1e-12)
    inside = (W > 0).to(torch.float64)
    ones = reconstruction(picture, x, inside).item()
    where = inside.bool().expand_as(x)
    assert ones == pytest.approx(F.mse_loss(picture[where], x[where]).item(), rel=1e-12)


@BOTH
def test_no_gradient_falls_outside_of_hole_and_rim(hole):
    views = prepared(make(hole=hole, size=32), photographs(4)).views
    picture = torch.zeros_like(views.x, requires_grad=True)
    reconstruction(picture, 2 * views.x - 1, views.weight()).backward()
    region = views.region.expand(-1, 3, -1, -1)
    assert (picture.grad[~region] == 0).all()
    assert (picture.grad[region] != 0).float().mean() > 0.99


def test_the_games_losses_are_binary_cross_entropy():
    true, false = torch.randn(2, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 4
    one, zero = torch.ones(50), torch.zeros(50)
    bce = F.binary_cross_entropy_with_logits
    torch.testing.assert_close(judge(true, false), bce(true.float(), one) + bce(false.float(), zero))
    torch.testing.assert_close(persuade(false), bce(false.float(), one))
    nobody_knows = torch.zeros(7)
    assert judge(nobody_knows, nobody_knows).item() == pytest.approx(2 * math.log(2))
    assert persuade(nobody_knows).item() == pytest.approx(math.log(2))
    assert judge(torch.tensor([1e4]), torch.tensor([-1e4])).item() == 0
    assert persuade(torch.tensor([-1e4])).isfinite()


@BOTH
def test_encoder_and_adversary_take_turns_and_leave_each_other_alone(hole):
    """The first loss is (1 - lambda) L_rec + lambda L_adv. The second trains only the adversary."""
    method = make(hole=hole, adversarial=0.1, size=16).train()
    batch = prepared(method, photographs(6, 16))
    optimizers = method.optimizers()
    sets = {name: {id(p) for g in o.param_groups for p in g["params"]} for name, o in optimizers.items()}
    assert not sets["main"] & sets["adversary"]
    assert sets["main"] | sets["adversary"] == {id(p) for p in method.parameters()}

    losses = method.losses(batch, progress())
    first = next(losses)
    assert first.optimizer == "main"
    mixed = 0.9 * first.terms["reconstruction"] + 0.1 * first.terms["adversarial"]
    torch.testing.assert_close(first.total.detach(), mixed)
    first.total.backward()
    assert all(p.grad is not None for p in method.parameters())
    held = [p.clone() for p in method.adversary.parameters()]
    optimizers["main"].step()
    assert all(torch.equal(a, b) for a, b in zip(held, method.adversary.parameters(), strict=True))

    method.zero_grad(set_to_none=True)
    second = next(losses)
    assert second.optimizer == "adversary"
    second.total.backward()
    for p in method.parameters():
        assert (p.grad is not None) == (id(p) in sets["adversary"])
    assert next(losses, None) is None


def test_the_adversary_sees_the_hole_alone():
    method = make(adversarial=0.1).eval()
    views = prepared(method, photographs(4, 16)).views
    outside = ~views.region.expand(-1, 3, -1, -1)
    x, other = 2 * views.x - 1, 2 * views.x - 1
    other[outside] = torch.rand(int(outside.sum()), generator=torch.Generator().manual_seed(0))
    assert torch.equal(method.adversary(method._cut(views, x)), method.adversary(method._cut(views, other)))
    inside = x.clone()
    inside[~outside] = 0.5
    assert not torch.equal(
        method.adversary(method._cut(views, x)), method.adversary(method._cut(views, inside))
    )


def test_without_an_adversary_there_is_one_loss_and_no_further_network():
    method = make().train()
    assert method.adversary is None
    assert set(method.optimizers()) == {"main"}
    batch = prepared(method, photographs(4, 16))
    (only,) = list(method.losses(batch, progress()))
    torch.testing.assert_close(only.total.detach(), only.terms["reconstruction"])


# Decoder


def test_places_of_a_channel_are_mixed_and_channels_are_not():
    decoder = ContextDecoder(5, 3, 12, 32).double().eval()
    decoder.body = torch.nn.Identity()
    maps = torch.randn(2, 5, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    decoder.size = 3
    by_hand = torch.zeros_like(maps)
    for c in range(5):
        by_hand[:, c] = (maps[:, c].reshape(2, 9) @ decoder.across[c]).view(2, 3, 3)
    torch.testing.assert_close(decoder(maps), by_hand.float().tanh(), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("backbone", "size"),
    [("smallconv", 16), ("smallconv", 34), ("alexnet", 32), ("alexnet", 96), ("resnet18", 40)],
)
def test_every_backbone_paints_whole_images(backbone, size):
    method = make(backbone=backbone, size=size, width=0.125, adversarial=0.001)
    views = prepared(method, photographs(3, size)).views
    picture = method.decoder(method.network.last_map(views.visible()))
    assert picture.shape == views.x.shape
    assert picture.abs().max() <= 1
    assert method.adversary(picture).shape == (3,)
    assert Adversary(size, 8)(picture).shape == (3,)


# Training


def test_both_losses_are_logged():
    log = trained(make(adversarial=0.01), toy(16)[0], batch_size=8, epochs=1)[-1]["log"]["rows"]
    names = {row[2] for row in log}
    assert {
        "loss",
        "reconstruction",
        "adversarial",
        "loss_adversary",
        "adversary_accuracy",
        "spread",
    } <= names
