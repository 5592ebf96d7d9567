"""Draws are uniform, independent of each other and of batching, and never change."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from data import draws
from data.draws import Draws

GOLDEN_KEY = 289306259742353284
GOLDEN_UNIFORM = [
    [0.8244822492437361, 0.9471164469964176],
    [0.7137413836421926, 0.531765827874227],
    [0.6002320142157161, 0.5096405006555913],
]
INDICES = {
    "from 0": np.arange(4000, dtype=np.int64),
    "strided": np.arange(4000, dtype=np.int64) << 20,
    "repeats": (np.arange(4000, dtype=np.int64) << 40) + 17,
}


@pytest.mark.parametrize("index", INDICES.values(), ids=INDICES.keys())
def test_columns_are_uniform_and_uncorrelated(index: np.ndarray) -> None:
    from scipy.stats import kstest

    u = draws.uniform(draws.key(3, "test"), index, 8)
    assert u.shape == (4000, 8)
    assert u.dtype == np.float64
    assert u.min() >= 0
    assert u.max() < 1
    assert min(kstest(column, "uniform").pvalue for column in u.T) > 1e-4
    # The bound is 4.5 standard deviations of the correlation of 4000 independent pairs.
    assert np.abs(np.corrcoef(u.T) - np.eye(8)).max() < 4.5 / np.sqrt(4000)
    assert np.abs(np.corrcoef(u[:-1].T, u[1:].T)[:8, 8:]).max() < 4.5 / np.sqrt(4000)


def test_pairs_of_columns_fill_the_square_evenly() -> None:
    from scipy.stats import chisquare

    u = draws.uniform(draws.key(0, "pairs"), np.arange(20_000, dtype=np.int64), 3)
    for a, b in itertools.combinations(range(3), 2):
        cell = (u[:, a] * 16).astype(int) * 16 + (u[:, b] * 16).astype(int)
        assert chisquare(np.bincount(cell, minlength=256)).pvalue > 1e-4


def test_every_bit_is_even() -> None:
    b = draws.bits(draws.key(5), np.arange(10_000, dtype=np.int64), 1)[:, 0]
    ones = [int((b >> np.uint64(i) & np.uint64(1)).sum()) for i in range(64)]
    assert np.abs(np.array(ones) - 5000).max() < 4.5 * 50
    assert len(np.unique(b)) == 10_000


def test_neighbouring_seeds_epochs_and_names_are_unrelated() -> None:
    index = np.arange(4000, dtype=np.int64)
    which = [(0, "a", 0, "x"), (1, "a", 0, "x"), (0, "b", 0, "x"), (0, "a", 1, "x"), (0, "a", 0, "y")]
    streams = [Draws(seed, stage, epoch, index).uniform(name, 1)[:, 0] for seed, stage, epoch, name in which]
    assert np.abs(np.corrcoef(streams) - np.eye(5)).max() < 4.5 / np.sqrt(4000)


def test_a_draw_belongs_to_the_image_not_to_the_batch() -> None:
    index = np.random.default_rng(0).permutation(1000).astype(np.int64)
    whole = Draws(1, "pretext", 2, index).uniform("crop", 4)
    for size in (1, 7, 64):
        parts = [Draws(1, "pretext", 2, index[i : i + size]).uniform("crop", 4) for i in range(0, 1000, size)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)
    order = np.argsort(index)
    np.testing.assert_array_equal(Draws(1, "pretext", 2, index[order]).uniform("crop", 4), whole[order])
    np.testing.assert_array_equal(Draws(1, "pretext", 2, index).uniform("crop", 9)[:, :4], whole)


def test_names_of_a_key_do_not_run_together() -> None:
    keys = [
        draws.key(1, "a", "bc"),
        draws.key(1, "ab", "c"),
        draws.key(1, "abc"),
        draws.key(1, "a", "b", "c"),
        draws.key(11),
    ]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("n", [0, 1, 2, 1000])
def test_permutation_holds_each_number_once(n: int) -> None:
    found = draws.permutation(draws.key(2, "order"), n)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(np.sort(found), np.arange(n))


def test_permutations_are_uniform() -> None:
    from scipy.stats import chisquare

    place = {p: i for i, p in enumerate(itertools.permutations(range(4)))}
    found = [place[tuple(draws.permutation(draws.key(0, "p", i), 4).tolist())] for i in range(6000)]
    assert chisquare(np.bincount(found, minlength=24)).pvalue > 1e-4


def test_values_never_change() -> None:
    """Published runs depend on these values. The first value is SplitMix64's published output for state 0."""
    first = draws._mix(np.array([0x9E3779B97F4A7C15], dtype=np.uint64))[0]
    assert int(first) == 0xE220A8397B1DCDAF
    assert draws.key(0, "pretext", 3, "crop") == GOLDEN_KEY
    u = draws.uniform(draws.key(0, "pretext", 3, "crop"), np.array([0, 1, 99], dtype=np.int64), 2)
    np.testing.assert_array_equal(u, GOLDEN_UNIFORM)
