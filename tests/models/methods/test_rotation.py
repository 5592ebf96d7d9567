import math

import numpy as np
import pytest
import torch
from method_checks import prepared, progress
from photographs import photographs

from models.configs.rotation import Rotation
from models.method import make_pretext
from models.methods.rotation import quarter_turns


def make(seed=0, size=16, **options):
    config = {"width": 0.25, "optimizer": "adamw", "learning_rate": 3e-3, **options}
    return make_pretext(Rotation(**config), size, seed)


def images(n=5, size=7, channels=3):
    return torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(0))


def test_turns_are_numpys():
    x = images()
    expected = np.concatenate([np.rot90(x.numpy(), k, axes=(2, 3)) for k in range(4)])
    np.testing.assert_array_equal(quarter_turns(x).numpy(), expected)


def test_four_quarter_turns_are_none_and_one_and_three_undo_each_other():
    x = images(size=8)

    def turn(y, k):
        return quarter_turns(y).chunk(4)[k]

    assert not torch.equal(turn(x, 1), x)
    assert torch.equal(turn(turn(turn(turn(x, 1), 1), 1), 1), x)
    assert torch.equal(turn(turn(x, 1), 3), x)
    assert torch.equal(turn(turn(x, 2), 2), x)
    assert torch.equal(turn(turn(x, 1), 2), turn(x, 3))


def test_every_image_is_in_the_batch_once_in_each_rotation():
    method = make(crop_min=1.0, flip=0.0, size=12)
    pictures = photographs(6, 12)
    views = prepared(method, pictures).views
    assert views.shape == (24, 3, 12, 12)
    upright = pictures.permute(0, 3, 1, 2) / 255
    for y in range(4):
        torch.testing.assert_close(
            views[6 * y : 6 * y + 6], torch.rot90(upright, y, (2, 3)), atol=1e-6, rtol=0
        )


@pytest.mark.parametrize("right", [True, False])
def test_the_loss_is_eq_3_with_each_label_n_times(right):
    """The network counts turns by a marked corner. Its loss equals a mean by hand over images and turns."""
    method = make(crop_min=1.0, flip=0.0, size=8).double()
    pictures = torch.zeros(3, 8, 8, 3, dtype=torch.uint8)
    pictures[:, 0, 0] = 255  # the upper left corner; a turn moves it to the lower left

    class Corner(torch.nn.Module):
        def forward(self, x):
            return torch.stack([x[:, 0, 0, 0], x[:, 0, -1, 0], x[:, 0, -1, -1], x[:, 0, 0, -1]], dim=1)

    method.network = Corner()
    method.network.image_size = 8
    scale = 3.0 if right else -3.0
    method.classifier = torch.nn.Linear(4, 4, bias=False)
    with torch.no_grad():
        method.classifier.weight.copy_(scale * torch.eye(4))
    loss = method.loss(prepared(method, pictures), progress())
    by_hand = -math.log(math.exp(scale) / (math.exp(scale) + 3))
    assert math.isclose(loss.total.item(), by_hand, rel_tol=1e-5)
    assert loss.terms["accuracy"] == float(right)


def test_views_belong_to_images_and_not_to_batches():
    method, pictures = make(), photographs(6, 16)
    together = prepared(method, pictures).views.unflatten(0, (4, 6))
    apart = prepared(method, pictures[:2]).views.unflatten(0, (4, 2))
    torch.testing.assert_close(together[:, :2], apart, rtol=0, atol=0)
    assert not torch.equal(together, prepared(method, pictures, step=1).views.unflatten(0, (4, 6)))


def test_the_loss_starts_at_ln_4():
    method = make()
    loss = method.loss(prepared(method, photographs(32, 16)), progress()).total.item()
    assert 0.9 * 1.3863 < loss < 1.3863 + 0.3


def test_what_is_published_has_no_classifier():
    method = make()
    assert method.network.layer_names()[-1] == "features"
    assert method.network.classes is None
    assert method.passes() == [(16, 4.0)]
