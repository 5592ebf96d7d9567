import numpy as np
import pytest

from data.errors import DataError
from tasks.stages.labels import draw

INDEX = np.arange(100, 400)
LABEL = np.repeat([0, 1, 2], [200, 70, 30]).astype(np.int32)
NAMES = ["a", "b", "c"]


def test_a_draw_is_stratified_and_a_function_of_the_seed() -> None:
    drawn, role = draw(INDEX, LABEL, NAMES, 0, fraction=0.1, per_class=None)
    assert np.bincount(LABEL[drawn - 100]).tolist() == [20, 7, 3]
    again, _ = draw(INDEX[::-1], LABEL[::-1], NAMES, 0, fraction=0.1, per_class=None)
    assert np.array_equal(drawn, again)
    other, _ = draw(INDEX, LABEL, NAMES, 1, fraction=0.1, per_class=None)
    assert not np.array_equal(drawn, other)
    assert np.all(np.diff(drawn) > 0)
    assert set(role) <= {"train", "validation"}


def test_validation_is_a_fifth_from_ten_labels_a_class_on() -> None:
    for n, aside in ((2, 0), (9, 0), (10, 2), (25, 5)):
        drawn, role = draw(INDEX, LABEL, NAMES, 3, fraction=None, per_class=n)
        for c in range(3):
            of_class = LABEL[drawn - 100] == c
            assert of_class.sum() == n
            assert (role[of_class] == "validation").sum() == aside


def test_a_larger_draw_contains_the_smaller() -> None:
    small, _ = draw(INDEX, LABEL, NAMES, 5, fraction=None, per_class=2)
    large, _ = draw(INDEX, LABEL, NAMES, 5, fraction=None, per_class=9)
    assert set(small) <= set(large)


def test_every_class_gets_a_label_and_one_is_drawn_like_another() -> None:
    drawn, _ = draw(INDEX, LABEL, NAMES, 0, fraction=0.001, per_class=None)
    assert np.bincount(LABEL[drawn - 100]).tolist() == [1, 1, 1]
    hits = np.zeros(30)
    for seed in range(400):
        chosen, _ = draw(
            INDEX[270:],
            np.r_[np.zeros(15), np.ones(15)].astype(np.int32),
            NAMES,
            seed,
            fraction=None,
            per_class=3,
        )
        hits[chosen - 370] += 1
    assert abs(hits - 80).max() < 4 * np.sqrt(400 * 0.2 * 0.8)


def test_refusals_say_what_to_do() -> None:
    with pytest.raises(DataError, match=r"only one class \('a'\)"):
        draw(INDEX[:5], LABEL[:5], NAMES, 0, fraction=None, per_class=2)
    said = r"data\.labels_per_class = 31, but class 'c' has only 30 labelled images; choose at most 30"
    with pytest.raises(DataError, match=said):
        draw(INDEX, LABEL, NAMES, 0, fraction=None, per_class=31)
