from itertools import permutations as all_permutations

import numpy as np
import pytest

from data.errors import ConfigError
from models.permutations import permutation_set, projective_semilinear_group


def hamming(rows):
    """Compute the distances of all pairs by brute force."""
    return np.array([np.count_nonzero(a != b) for i, a in enumerate(rows) for b in rows[:i]])


def sign(row):
    """Compute the sign from the cycles. A cycle of even length is odd."""
    seen, odd = set(), 0
    for start in range(len(row)):
        length = 0
        while start not in seen:
            seen.add(start)
            start = row[start]
            length += 1
        odd += length > 0 and length % 2 == 0
    return -1 if odd % 2 else 1


@pytest.mark.parametrize(("construction", "distance"), [("pgammal", 6), ("even", 3)])
def test_701_permutations_keep_their_distance(construction, distance):
    rows = permutation_set(701, seed=3, construction=construction)
    assert rows.shape == (701, 9)
    assert rows.dtype == np.int64
    assert (np.sort(rows, axis=1) == np.arange(9)).all()
    distances = hamming(rows)
    assert distances.min() >= distance
    assert 7.9 <= distances.mean() <= 8.1


def test_even_permutations_are_even():
    assert {sign(row) for row in permutation_set(100, seed=0, construction="even").tolist()} == {1}


def test_even_permutations_are_drawn_from_all_of_them():
    rows = permutation_set(20_000, seed=0, construction="even")
    for place in range(9):
        counts = np.bincount(rows[:, place], minlength=9)
        assert np.abs(counts - 20_000 / 9).max() < 5 * np.sqrt(20_000 / 9)


def test_the_group_is_closed_sharply_large_and_has_its_inverses():
    group = projective_semilinear_group()
    members = {tuple(row) for row in group.tolist()}
    assert len(members) == 1512
    assert tuple(range(9)) in members
    rng = np.random.default_rng(0)
    for a, b in rng.integers(0, 1512, size=(5000, 2)):
        assert tuple(group[a][group[b]].tolist()) in members
    assert all(tuple(np.argsort(row).tolist()) in members for row in group)


def test_the_group_moves_any_three_points_to_any_three():
    group = projective_semilinear_group()
    reached = {tuple(row) for row in group[:, :3].tolist()}
    assert reached == set(all_permutations(range(9), 3))


def test_the_same_seed_gives_the_same_set_and_another_seed_another():
    assert (permutation_set(50, seed=1) == permutation_set(50, seed=1)).all()
    assert (permutation_set(50, seed=1) != permutation_set(50, seed=2)).any()
    assert (permutation_set(50, seed=1) == permutation_set(701, seed=1)[:50]).all()


@pytest.mark.parametrize(("n", "construction"), [(0, "pgammal"), (1513, "pgammal"), (181_441, "even")])
def test_more_than_there_are_is_refused(n, construction):
    with pytest.raises(ConfigError, match=f"permutations: {n} asked for"):
        permutation_set(n, seed=0, construction=construction)
