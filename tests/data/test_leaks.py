"""Images that show the same picture across splits and under two labels."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from data.errors import DataError
from data.leaks import Pair, Picture, conflicts, leaked, together
from data.manifest import make_manifest


def photo(seed, side=48):
    """A random picture with structure at all scales."""
    rng = np.random.default_rng(seed)
    layers = [
        np.asarray(
            Image.fromarray(rng.integers(0, 256, (n, n, 3), np.uint8)).resize(
                (side, side), Image.Resampling.BICUBIC
            )
        ).astype(float)
        for n in (4, 8, 16)
    ]
    return Image.fromarray((sum(layers) / len(layers)).astype(np.uint8)).filter(ImageFilter.SMOOTH)


def save(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


@pytest.fixture
def folders(tmp_path):
    for split, start, count in (("train", 0, 12), ("test", 100, 6), ("more", 200, 6)):
        for i in range(count):
            save(tmp_path / split / ("ape" if i % 2 else "bee") / f"{i:02d}.png", photo(start + i))
    return tmp_path


def make(folder, **options):
    where = {name: f"folder:{folder}/{name}" for name in ("train", "test", "more")}
    return make_manifest(
        where["train"], where["test"], where["more"], **{"seed": 0, "max_rejected": 0, **options}
    )


def twins(made):
    return {(row["first_uri"], row["second_uri"], row["kind"]) for row in made.twins.to_pylist()}


def test_without_copies_there_is_nothing_to_say(folders):
    made = make(folders)
    assert made.twins.num_rows == 0
    assert "leaked" not in made.counts
    assert made.notes == []


def plant(folders):
    """A test image is in train (as a JPEG copy), another in the unlabelled images (as a crop)."""
    copy = Image.open(folders / "test/ape/01.png")
    save(folders / "train/ape/copy.jpg", copy, quality=80)
    crop = Image.open(folders / "test/bee/02.png").crop((1, 1, 47, 47))
    save(folders / "more/bee/crop.png", crop)
    same = Image.open(folders / "test/bee/00.png")
    save(folders / "train/bee/other-bytes.bmp", same)


def test_copies_are_found_whatever_their_bytes(folders):
    plant(folders)
    made = make(folders)
    assert twins(made) == {
        ("ape/copy.jpg", "ape/01.png", "near"),
        ("bee/crop.png", "bee/02.png", "near"),
        ("bee/other-bytes.bmp", "bee/00.png", "equal"),
    }
    assert made.counts["leaked"] == 3
    said = "; ".join(made.notes)
    assert "2 of 6 test images are also in train (1 with equal pixels, 1 nearly)" in said
    assert "1 of 6 test images are also in data.unlabelled (0 with equal pixels, 1 nearly)" in said
    for row in made.twins.to_pylist():
        assert row["first_split"] != "test"
        assert made.images["uri"][row["second"]].as_py() == row["second_uri"]


def test_wide_values_are_equal_only_at_the_same_scale(folders):
    grey = photo(7).convert("L")
    values = np.asarray(grey).astype(np.uint16)
    save(folders / "train/ape/8 bits.png", grey)
    for name, factor in (("dark", 1), ("light", 200), ("light again", 200)):
        save(folders / "train/ape" / f"{name}.png", Image.fromarray(values * factor))
    equal = {pair for pair in twins(make(folders)) if pair[2] == "equal"}
    assert equal == {("ape/light again.png", "ape/light.png", "equal")}


def test_leaks_are_dropped_or_refused_as_asked(folders):
    plant(folders)
    dropped = make(folders, leaks="drop")
    assert (dropped.counts["train"], dropped.counts["unlabelled"], dropped.counts["test"]) == (12, 6, 6)
    assert "leaked" not in dropped.counts
    reasons = {row["uri"]: row["reason"] for row in dropped.rejected.to_pylist()}
    assert reasons["ape/copy.jpg"] == "it shows the test image 'ape/01.png'"
    assert {row["first"] for row in dropped.twins.to_pylist()} == {None}
    with pytest.raises(
        DataError, match=r"3 training images show .* 'ape/copy\.jpg' \(train\) is 'ape/01\.png'"
    ):
        make(folders, leaks="refuse")
    assert dropped.parts == {
        **make(folders).parts,
        **{p: dropped.parts[p] for p in ("train", "unlabelled", "labels", "train_labels")},
    }


def test_what_was_compared_is_remembered(folders, tmp_path, monkeypatch):
    plant(folders)
    first = make(folders, compared=tmp_path / "memory")
    monkeypatch.setattr("data.twins.twins", lambda *arguments, **options: pytest.fail("compared again"))
    again = make(folders, compared=tmp_path / "memory")
    assert again.twins.equals(first.twins)
    (kept,) = (tmp_path / "memory").iterdir()
    kept.write_bytes(b"damaged")
    monkeypatch.undo()
    assert make(folders, compared=tmp_path / "memory").twins.equals(first.twins)


def test_one_picture_under_two_labels_is_named(folders):
    save(folders / "train/bee/ape.jpg", Image.open(folders / "train/ape/01.png"), quality=90)
    said = "; ".join(make(folders).notes)
    assert "1 image has two labels" in said
    assert "ape and bee" in said
    assert "1 of 19 training images are copies of others" in said


def test_copies_are_held_out_together(tmp_path):
    for i in range(20):
        image = photo(i)
        save(tmp_path / f"c{i % 2}" / f"{i:02d}.png", image)
        save(tmp_path / f"c{i % 2}" / f"{i:02d}-copy.jpg", image, quality=85)
    for seed in range(4):
        made = make_manifest(f"folder:{tmp_path}", None, None, seed=seed, max_rejected=0)
        side = {row["uri"]: row["split"] for row in made.images.to_pylist()}
        assert made.twins.num_rows >= 19
        for row in made.twins.to_pylist():
            assert side[row["first_uri"]] == side[row["second_uri"]]
        assert "leaked" not in made.counts


def test_links_lead_from_train_to_test_through_other_images():
    pairs = [Pair(0, 1, "near", 0.97), Pair(1, 2, "mirrored", 0.97), Pair(3, 4, "equal", 1.0)]
    group = together(6, pairs)
    assert leaked(["train", "unlabelled", "test", "train", "train", "test"], group) == {0: 2, 1: 2}
    pictures = [Picture(label, "", b"") for label in (0, 1, 0, 0, 1, None)]
    assert conflicts(pictures, pairs) == [pairs[0], pairs[2]]  # a mirrored b is a d
