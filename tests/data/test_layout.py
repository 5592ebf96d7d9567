"""What sub-folders mean: a table of what people have, and what is understood of it."""

import unicodedata

import pytest

from data.sources.layout import classes_of, splits_of


def paths(**folders):
    """Paths of images: folder (with __ for /) -> number of images. `_` is the top."""
    return [
        f"{'' if name == '_' else name.replace('__', '/') + '/'}{i:03d}.png"
        for name, count in folders.items()
        for i in range(count)
    ]


def found(given, meaning="auto"):
    """(class -> number of images, number without a class, number left out)"""
    got = classes_of(given, meaning)
    kept = [name for i, name in enumerate(got.names) if i not in got.left_out]
    named = {name: kept.count(name) for name in sorted({n for n in kept if n is not None})}
    return named, kept.count(None), len(got.left_out)


@pytest.mark.parametrize(
    ("given", "understood", "said"),
    [
        (paths(_=9), ({}, 9, 0), ""),
        (paths(cat=5, dog=4), ({"cat": 5, "dog": 4}, 0, 0), "taken as classes ('cat', 'dog')"),
        (paths(cat__deep__er=5, dog=4), ({"cat": 5, "dog": 4}, 0, 0), "taken as classes"),
        # Strays beside class folders change nothing.
        (paths(_=1, cat=5, dog=4), ({"cat": 5, "dog": 4}, 0, 1), "1 image lies beside the class folders"),
        (paths(_=3, cat=5, dog=4), ({"cat": 5, "dog": 4}, 0, 3), "3 images lie beside"),
        # Many images beside class folders have no label yet.
        (paths(_=4, cat=5, dog=4), ({"cat": 5, "dog": 4}, 4, 0), "4 of 13 images are not in a sub-folder"),
        (
            paths(_=80, cat=2, dog=1),
            ({"cat": 2, "dog": 1}, 80, 0),
            "no classes, write folder:PATH?folders=none",
        ),
        (paths(_=9, **{"2024-01-05": 4, "2024-02-11": 3}), ({}, 16, 0), "are dates"),
        (paths(_=20, cat=300, dog=400), ({"cat": 300, "dog": 400}, 0, 20), "left out, first '000.png'"),
        (paths(_=1, cat=1), ({}, 2, 0), "is not taken as a class"),
        # Folders that are no classes.
        ([f"2024-0{m}-11/{i}.jpg" for m in (1, 2) for i in range(3)], ({}, 6, 0), "are dates"),
        ([f"{y}/0{m}/{i}.jpg" for y in (2019, 2021) for m in (1, 2) for i in range(2)], ({}, 8, 0), "dates"),
        ([f"20210{m}01 beach/{i}.jpg" for m in (3, 4) for i in range(2)], ({}, 4, 0), "are dates"),
        ([f"10{i}CANON/IMG_{i}.jpg" for i in range(4)], ({}, 4, 0), "a camera's folders"),
        (paths(cat=5, dog=4, unlabelled=7), ({"cat": 5, "dog": 4}, 7, 0), "7 images are taken as unlabelled"),
        (paths(cat=5, unlabelled=7), ({"cat": 5}, 7, 0), "7 images are taken as unlabelled"),
        (paths(unlabelled=7), ({}, 7, 0), "is not taken as a class"),
        (paths(cat=5, dog=4, Unlabeled=7), ({"cat": 5, "dog": 4}, 7, 0), "'Unlabeled' lies beside"),
        # Numbers that are no dates are classes.
        (paths(**{str(n): 3 for n in range(10)}), ({str(n): 3 for n in range(10)}, 0, 0), "taken as classes"),
        ([f"{n:04d}/a.png" for n in (1, 1801, 9999)], ({"0001": 1, "1801": 1, "9999": 1}, 0, 0), "classes"),
        # The only folder is looked into.
        (paths(set__cat=5, set__dog=4), ({"cat": 5, "dog": 4}, 0, 0), "in one folder, 'set'"),
        (paths(a__b__cat=5, a__b__dog=4), ({"cat": 5, "dog": 4}, 0, 0), "in one folder, 'a'"),
        (paths(set__cat=5, set__dog=4, _=1), ({"cat": 5, "dog": 4}, 0, 1), "in one folder"),
        (paths(photos=5), ({"photos": 5}, 0, 0), "taken as classes ('photos')"),
        # Names of splits that can be none.
        (paths(train=5, test=4), ({"test": 4, "train": 5}, 0, 0), "they do not hold sub-folders"),
        (paths(train__x=5, car=4), ({"car": 4, "train": 5}, 0, 0), "other folders lie beside them"),
    ],
)
def test_what_sub_folders_mean(given, understood, said):
    assert found(given) == understood
    assert said in "; ".join(classes_of(given).guesses)
    assert not splits_of(given)


def test_a_user_overrules_the_guess():
    dates = [f"2024-0{m}-11/{i}.jpg" for m in (1, 2) for i in range(3)]
    assert found(dates, "classes") == ({"2024-01-11": 3, "2024-02-11": 3}, 0, 0)
    assert found(paths(cat=5, dog=4), "none") == ({}, 9, 0)
    assert found(paths(_=8, cat=5, dog=4), "classes") == ({"cat": 5, "dog": 4}, 8, 0)
    assert "write folder:PATH?folders=classes" in classes_of(dates).guesses[0]


@pytest.mark.parametrize(
    ("given", "splits"),
    [
        (paths(train__a=1, val__a=1), {"train": "train", "val": "validation"}),
        (
            paths(Train__a=1, TEST__a=1, unlabeled=3),
            {"Train": "train", "TEST": "test", "unlabeled": "unlabelled"},
        ),
        (paths(_=2, training__a=1, valid__b=1), {"training": "train", "valid": "validation"}),
        (paths(train__a=1, test=4), {}),
        (paths(train__a=1, test__a=4, extra__a=1), {}),
        (paths(unlabelled=5), {}),
        (paths(_=4), {}),
    ],
)
def test_which_top_folders_are_splits(given, splits):
    assert splits_of(given) == splits


def test_one_class_in_two_unicode_forms_is_one_class():
    forms = [unicodedata.normalize(form, "café") for form in ("NFC", "NFD")]
    given = [f"{name}/{i}.png" for name in (*forms, "tea") for i in range(2)]
    assert found(given) == ({"café": 4, "tea": 2}, 0, 0)
    assert "Unicode form" in classes_of(given).guesses[-1]
