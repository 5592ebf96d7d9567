"""Orders of images: which images an epoch has, and that batches depend only on (key, epoch, step)."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from data.order import Order, Repeated, Shuffled, UniformOverClusters

KEY = 1234


def images(n: int) -> NDArray[np.int64]:
    return np.arange(n, dtype=np.int64) * 3 + 100


def clusters(n: int) -> NDArray[np.int32]:
    return (np.arange(n) ** 2 % 7 * 10).astype(np.int32)


def epoch(order: Order, number: int = 0, key: int = KEY) -> list[NDArray[np.int64]]:
    return [order.batch(number, step, key) for step in range(order.steps_per_epoch)]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Shuffled(images(50), 8),
        lambda: UniformOverClusters(images(50), clusters(50), 8),
        lambda: Repeated(images(5), 8, 12),
        lambda: Repeated(images(50), 8, 12),
    ],
)
def test_a_batch_is_a_function_of_key_epoch_and_step(make) -> None:
    order = make()
    in_turn = {(e, s): order.batch(e, s, KEY) for e in range(3) for s in range(order.steps_per_epoch)}
    for (e, s), expected in reversed(in_turn.items()):
        np.testing.assert_array_equal(order.batch(e, s, KEY), expected)
        np.testing.assert_array_equal(make().batch(e, s, KEY), expected)
        assert expected.dtype == np.int64
    assert any((order.batch(0, s, KEY + 1) != in_turn[0, s]).any() for s in range(order.steps_per_epoch))
    assert any((in_turn[1, s] != in_turn[0, s]).any() for s in range(order.steps_per_epoch))
    with pytest.raises(IndexError):
        order.batch(0, order.steps_per_epoch, KEY)


def test_shuffled_visits_every_image_once() -> None:
    kept = epoch(Shuffled(images(50), 8, drop_last=False))
    assert [len(batch) for batch in kept] == [8] * 6 + [2]
    assert sorted(np.concatenate(kept)) == list(range(50))
    dropped = epoch(Shuffled(images(50), 8))
    assert [len(batch) for batch in dropped] == [8] * 6
    assert len(set(np.concatenate(dropped))) == 48


def test_shuffled_drops_other_images_each_epoch() -> None:
    order = Shuffled(images(50), 8)
    missing = [frozenset(range(50)) - frozenset(np.concatenate(epoch(order, e))) for e in range(5)]
    assert len(set(missing)) > 1


def test_shuffled_order_belongs_to_the_images() -> None:
    forwards = Shuffled(images(20), 20).batch(0, 0, KEY)
    backwards = Shuffled(images(20)[::-1].copy(), 20).batch(0, 0, KEY)
    np.testing.assert_array_equal(images(20)[forwards], images(20)[::-1][backwards])


@pytest.mark.parametrize("drop_last", [True, False])
def test_shuffled_with_few_images_is_one_batch_of_all(drop_last: bool) -> None:
    order = Shuffled(images(5), 8, drop_last)
    assert order.steps_per_epoch == 1
    assert sorted(order.batch(3, 0, KEY)) == list(range(5))


def test_clusters_are_equally_likely_and_so_are_their_images() -> None:
    from scipy.stats import chisquare

    cluster = np.repeat([4, 9, 2], [1, 10, 89])  # the other ids are empty clusters, which are never drawn
    order = UniformOverClusters(images(100), cluster, 10)
    assert order.steps_per_epoch == 10
    drawn = np.concatenate([batch for e in range(60) for batch in epoch(order, e)])
    counts = np.bincount(drawn, minlength=100)
    assert chisquare([counts[cluster == c].sum() for c in (4, 9, 2)]).pvalue > 1e-4
    assert chisquare(counts[cluster == 9]).pvalue > 1e-4
    assert chisquare(counts[cluster == 2]).pvalue > 1e-4


def test_clusters_need_not_be_sorted() -> None:
    from scipy.stats import chisquare

    cluster = clusters(100)
    drawn = np.concatenate(
        [b for e in range(50) for b in epoch(UniformOverClusters(images(100), cluster, 10), e)]
    )
    assert chisquare(np.unique(cluster[drawn], return_counts=True)[1]).pvalue > 1e-4


def test_clusters_with_few_images_still_make_a_step() -> None:
    assert len(UniformOverClusters(images(3), clusters(3), 8).batch(0, 0, KEY)) == 8


@pytest.mark.parametrize(("n", "batch_size"), [(7, 3), (7, 7), (7, 16), (1, 4), (40, 8)])
def test_repeated_makes_whole_passes(n: int, batch_size: int) -> None:
    batches = epoch(Repeated(images(n), batch_size, 30))
    assert {len(batch) for batch in batches} == {batch_size}
    drawn = np.concatenate(batches)
    passes = drawn[: len(drawn) // n * n].reshape(-1, n)
    np.testing.assert_array_equal(np.sort(passes, axis=1), np.tile(np.arange(n), (len(passes), 1)))
    if n > 1:
        assert len(np.unique(passes, axis=0)) > 1


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="no images"):
        Shuffled(images(0), 4)
    with pytest.raises(ValueError, match="batch_size is 0"):
        Repeated(images(3), 0, 5)
    with pytest.raises(ValueError, match="0 steps"):
        Repeated(images(3), 2, 0)
    with pytest.raises(ValueError, match="3 images, but clusters for 4"):
        UniformOverClusters(images(3), clusters(4), 2)


def test_an_epoch_may_end_before_all_images_were_seen() -> None:
    order = Shuffled(images(50), 8, steps=2)
    seen = np.concatenate(epoch(order))
    assert len(set(seen.tolist())) == 16
    assert np.array_equal(seen, np.concatenate(epoch(Shuffled(images(50), 8))[:2]))
    assert UniformOverClusters(images(50), clusters(50), 8, 20).steps_per_epoch == 20
    assert Shuffled(images(50), 8, steps=20).steps_per_epoch == 6
