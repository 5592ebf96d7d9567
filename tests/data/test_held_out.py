"""Which images are held out: a function of seed and uri, with three rules for few images."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.errors import StoreError
from data.files import read_sealed
from data.held_out import HELD_OUT, hold_out, read_sides, write_sides


def choose(seed, uris, labels=None, groups=None, before=None):
    labels = [None] * len(uris) if labels is None else labels
    groups = np.arange(len(uris)) if groups is None else np.asarray(groups)
    return hold_out(seed, uris, labels, groups, before or {})


def test_held_out_is_a_fifth_and_depends_on_seed_and_uri_alone():
    uris = [f"c{i % 10}/{i:05d}.png" for i in range(20_000)]
    chosen = choose(3, uris)
    spread = np.sqrt(HELD_OUT * (1 - HELD_OUT) / 2000)
    shares = np.array([chosen[i::10].mean() for i in range(10)])
    assert (np.abs(shares - HELD_OUT) < 4 * spread).all()
    assert (choose(3, uris[::-1]) == chosen[::-1]).all()
    assert (choose(3, uris[500:700]) == chosen[500:700]).all()
    assert 0.25 < (choose(4, uris) != chosen).mean() < 0.39  # independent: 2 x 0.2 x 0.8
    assert (choose(3, uris, [i % 10 for i in range(20_000)]) == chosen).all()  # large classes change nothing


@pytest.mark.parametrize("seed", range(20))
def test_a_class_of_two_has_one_on_each_side_and_a_class_of_one_stays_in_train(seed):
    uris = [f"{i:03d}" for i in range(300)]
    labels = [i // 2 for i in range(200)] + [100 + i for i in range(100)]
    chosen = choose(seed, uris, labels)
    assert (chosen[:200].reshape(-1, 2).sum(axis=1) == 1).all()
    assert not chosen[200:].any()


def test_twins_go_to_one_side_whatever_the_order():
    rng = np.random.default_rng(0)
    uris, groups = [f"{i:04d}" for i in range(3000)], rng.integers(0, 1000, 3000)
    chosen = choose(1, uris, groups=groups)
    for group in range(1000):
        assert len(set(chosen[groups == group].tolist())) <= 1
    order = rng.permutation(3000)
    again = choose(1, [uris[i] for i in order], groups=groups[order])
    assert (again == chosen[order]).all()
    assert 0.16 < chosen.mean() < 0.24


def test_an_image_stays_where_it_was_while_folders_grow():
    rng = np.random.default_rng(0)
    uris = [f"{i:04d}" for i in rng.permutation(400)]
    labels = [int(uri) % 60 for uri in uris]
    groups = np.array([int(uri) // 2 * 2 if int(uri) % 10 == 0 else int(uri) for uri in uris])
    before = {}
    for count in (2, 40, 90, 200, 399, 400):
        chosen = choose(5, uris[:count], labels[:count], groups[:count], before)
        now = dict(zip(uris[:count], chosen.tolist(), strict=True))
        assert {uri: now[uri] for uri in before} == before
        before = now


def test_sides_are_remembered_and_a_damaged_memory_is_refused(tmp_path):
    path = tmp_path / "below" / "sides.parquet"
    assert read_sides(path) == {}
    write_sides(path, {"a": True, "é": False})
    assert read_sides(path) == {"a": True, "é": False}
    content = path.read_bytes()
    pq.write_table(pq.read_table(pa.BufferReader(read_sealed(path))), path)  # as earlier versions wrote it
    assert read_sides(path) == {"a": True, "é": False}
    for damaged in (b"", b"PAR1 damaged", content[:-1], content[:50] + b"?" + content[51:]):
        path.write_bytes(damaged)
        with pytest.raises(StoreError, match=r"sides\.parquet is damaged.*store verify --repair"):
            read_sides(path)
