"""Plain Jigsaw and its configurations. test_methods.py tests Jigsaw++, which has the same implementation."""

import itertools
import math

import pytest
import torch
from method_checks import prepared, progress, toy
from photographs import photographs
from pydantic import ValidationError

from data.errors import ConfigError
from models.configs.jigsaw import Jigsaw, JigsawPlusPlus
from models.method import make_pretext
from models.methods import jigsaw
from models.methods.jigsaw import JigsawMethod
from models.permutations import permutation_set

SMALL = {"backbone": "smallconv", "width": 0.25, "tile_features": 16}


def make(seed=0, size=32, cls=Jigsaw, **options):
    return make_pretext(cls(**{**SMALL, "optimizer": "adamw", "learning_rate": 3e-3, **options}), size, seed)


def test_the_defaults_are_the_papers():
    plain, plus = Jigsaw(), JigsawPlusPlus()
    assert (plain.permutations, plain.occluders, plain.grey, plain.projection) == (100, 0, 0.3, 0.0)
    assert (plus.permutations, plus.occluders, plus.grey, plus.projection) == (701, 2, 0.7, 0.5)
    assert plain.construction == plus.construction == "pgammal"
    assert plain.trainer == plus.trainer


def test_jigsaw_is_jigsaw_plus_plus_without_what_was_added():
    same = {"permutations": 50, "grey": 0.4, "projection": 0.2}
    a, b = make(**same, size=96), make(cls=JigsawPlusPlus, occluders=0, **same, size=96)
    state = b.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in a.state_dict().items())
    images = photographs(12, 96)
    a_views, b_views = prepared(a, images).views, prepared(b, images).views
    assert torch.equal(a_views.tiles, b_views.tiles)
    assert torch.equal(a_views.permutation, b_views.permutation)


def test_no_tile_of_plain_jigsaw_is_another_images(monkeypatch):
    monkeypatch.setattr(jigsaw, "normalise", lambda tiles: tiles)
    method = make(size=96, grey=0.0, channel_shift=0)
    images = torch.arange(30, dtype=torch.uint8).view(30, 1, 1, 1).expand(30, 96, 96, 3)
    tiles = prepared(method, images).views.tiles.unflatten(0, (30, 9))
    assert torch.equal(tiles.amin(dim=(1, 2, 3, 4)), torch.arange(30.0))
    assert torch.equal(tiles.amax(dim=(1, 2, 3, 4)), torch.arange(30.0))


@pytest.mark.parametrize("cls", [Jigsaw, JigsawPlusPlus])
@pytest.mark.parametrize(("construction", "distance"), [("pgammal", 6), ("even", 3)])
def test_the_construction_decides_how_far_permutations_lie_apart(cls, construction, distance):
    method = make(cls=cls, permutations=300, construction=construction)
    rows = method.permutations
    assert torch.equal(rows, torch.from_numpy(permutation_set(300, 0, construction)))
    assert torch.equal(rows.sort(dim=1).values, torch.arange(9).expand(300, 9))
    apart = (rows[:, None] != rows).sum(dim=2)[~torch.eye(300, dtype=torch.bool)]
    assert apart.min() == distance
    assert 7.9 < apart.float().mean() < 8.1
    parity = [sum(a > b for a, b in itertools.combinations(row, 2)) % 2 for row in rows.tolist()]
    assert (sum(parity) == 0) or construction == "pgammal"


def test_more_permutations_than_the_group_has_need_the_other_construction():
    with pytest.raises(ValidationError, match=r"pgammal has 1512.*construction even"):
        Jigsaw(permutations=1513)
    assert len(make(permutations=2000, construction="even").permutations) == 2000


@pytest.mark.parametrize(
    ("size", "tile", "expected"), [(96, None, 24), (32, None, 8), (96, 24, 24), (72, 20, 20)]
)
def test_tiles_of_24_px_and_less(size, tile, expected):
    method = make(size=size, tile=tile)
    views = prepared(method, photographs(4, size)).views
    assert views.tiles.shape == (36, 3, expected, expected)
    assert method.loss(prepared(method, photographs(4, size)), progress()).total.isfinite()


def test_tiles_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match=r"pretext.tile: 33 px"):
        JigsawMethod(Jigsaw(**SMALL, tile=33), 96, 0)


def test_the_loss_starts_at_ln_100_and_every_permutation_comes():
    from scipy.stats import chisquare

    method = make(size=32)
    assert math.isclose(math.log(100), 4.6052, abs_tol=1e-4)
    loss = method.loss(prepared(method, photographs(32)), progress())
    assert 0.9 * math.log(100) < loss.total.item() < math.log(100) + 0.3
    few, tiny = make(permutations=20), torch.zeros(300, 32, 32, 3, dtype=torch.uint8)
    seen = torch.cat([prepared(few, tiny, step).views.permutation for step in range(2)])
    assert chisquare(seen.bincount(minlength=20)).pvalue > 1e-4


def test_colour_is_dropped_in_three_images_of_ten_and_else_left_alone(monkeypatch):
    monkeypatch.setattr(jigsaw, "normalise", lambda tiles: tiles)
    method = make(size=32, channel_shift=0)
    images = toy(200, 32)[0]
    images[..., 0] = 200
    images[..., 2] = 30
    greys = 0
    for step in range(3):
        tiles = prepared(method, images, step).views.tiles.unflatten(0, (200, 9))
        grey = (tiles[:, :, 0] == tiles[:, :, 2]).flatten(1).all(dim=1)
        assert (tiles[~grey, :, 0] == 200).all()
        assert (tiles[~grey, :, 2] == 30).all()
        greys += int(grey.sum())
    assert abs(greys - 180) < 4 * math.sqrt(600 * 0.3 * 0.7)
