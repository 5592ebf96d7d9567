"""VOC's layout: the photographs of each role, their boxes and masks, and their parts of the manifest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from voc_folder import divide, draw_shapes

from data.decode import extent_within, resize_within
from data.errors import DataError
from data.images import open_images
from data.manifest import make_manifest
from data.sources import open_source
from data.voc import VOID, VocFolder

NAMES = [f"{number:03}" for number in range(6)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    draw_shapes(tmp_path, NAMES)
    return tmp_path


def uris(folder: Path, role: str) -> list[str]:
    return [entry.uri for entry in open_source(f"voc:{folder}", role).entries()]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sets", "train", "test"),
    [
        ({}, "012345", "012345"),
        ({"train": "012", "val": "34"}, "012", "34"),
        ({"train": "012", "val": "34", "trainval": "01234", "test": "5"}, "01234", "5"),
        ({"train": "012", "val": "34", "test": "5"}, "01234", "5"),
        ({"train": "012", "test": "5"}, "012", "5"),
        ({"aeroplane_train": "012"}, "012345", "012345"),
    ],
)
def test_sets_serve_the_roles_they_suit(folder: Path, sets: dict[str, str], train: str, test: str) -> None:
    if sets:
        divide(folder, **{name: [NAMES[int(digit)] for digit in digits] for name, digits in sets.items()})
    assert (
        uris(folder, "train")
        == uris(folder, "unlabelled")
        == [f"JPEGImages/{NAMES[int(d)]}.png" for d in train]
    )
    assert uris(folder, "test") == [f"JPEGImages/{NAMES[int(d)]}.png" for d in test]


def test_a_set_that_names_what_is_not_there_is_refused(folder: Path) -> None:
    divide(folder, train=NAMES, test=["absent"])
    with pytest.raises(DataError, match="absent"):
        uris(folder, "test")
    with pytest.raises(DataError, match="JPEGImages"):
        uris(folder / "Annotations", "train")


def test_boxes_count_from_zero_and_end_outside(folder: Path) -> None:
    found = VocFolder("voc:x", str(folder)).objects("JPEGImages/000.png")
    assert found.names == ("disc", "square", "disc")
    assert found.difficult.tolist() == [False, False, True]
    pixels = np.asarray(Image.open(folder / "SegmentationClass" / "000.png"))
    left, top, right, bottom = found.boxes[1].astype(int)
    assert (pixels[top:bottom, left:right] == 2).all()
    assert not (pixels[:, [left - 1, right]] == 2).any()
    assert not (pixels[[top - 1, bottom]] == 2).any()


def test_boxes_without_area_are_passed_over_and_nonsense_is_refused(folder: Path) -> None:
    path = folder / "Annotations" / "000.xml"
    corners = "<xmin>5</xmin><ymin>5</ymin><xmax>5</xmax><ymax>9</ymax>"
    slip = f"<object><name>disc</name><bndbox>{corners}</bndbox></object>"
    path.write_text(f"<annotation>{slip}</annotation>")
    found = VocFolder("voc:x", str(folder)).objects("JPEGImages/000.png")
    assert found.boxes.shape == (0, 4)
    for broken in (
        "<annotation><object></annotation>",
        "<annotation><object><name>a</name></object></annotation>",
    ):
        path.write_text(broken)
        with pytest.raises(DataError, match=r"000\.xml"):
            VocFolder("voc:x", str(folder)).objects("JPEGImages/000.png")
    path.unlink()
    with pytest.raises(DataError, match="no annotation"):
        VocFolder("voc:x", str(folder)).objects("JPEGImages/000.png")


def test_penn_fudans_layout(tmp_path: Path) -> None:
    for part in ("PNGImages", "Annotation", "PedMasks"):
        (tmp_path / part).mkdir()
    Image.new("RGB", (20, 10)).save(tmp_path / "PNGImages" / "A1.png")
    numbers = np.zeros((10, 20), np.uint8)
    numbers[2:5, 3:6], numbers[2:5, 10:14] = 1, 2
    Image.fromarray(numbers).save(tmp_path / "PedMasks" / "A1_mask.png")
    (tmp_path / "Annotation" / "A1.txt").write_text(
        '# Compatible with PASCAL Annotation Version 1.00\nObjects with ground truth : 2 { "P" "P" }\n'
        'Bounding box for object 1 "P" (Xmin, Ymin) - (Xmax, Ymax) : (4, 3) - (6, 5)\n'
        'Bounding box for object 2 "P" (Xmin, Ymin) - (Xmax, Ymax) : (11, 3) - (14, 5)\n'
    )
    folder = VocFolder("voc:x", str(tmp_path))
    found = folder.objects("PNGImages/A1.png")
    assert found.boxes.tolist() == [[3, 2, 6, 5], [10, 2, 14, 5]]
    assert found.names == ("P", "P")
    mask = folder.classes_of_pixels("PNGImages/A1.png")
    assert mask is not None
    assert np.array_equal(mask, (numbers > 0).astype(np.uint8))
    assert uris(tmp_path, "train") == ["PNGImages/A1.png"]


def test_masks(folder: Path) -> None:
    mask = VocFolder("voc:x", str(folder)).classes_of_pixels("JPEGImages/001.png")
    assert mask is not None
    assert mask.shape == (60, 80)
    assert set(np.unique(mask)) == {0, 1, 2, VOID}
    (folder / "SegmentationClass" / "001.png").unlink()
    assert VocFolder("voc:x", str(folder)).classes_of_pixels("JPEGImages/001.png") is None


def manifest(folder: Path) -> dict[str, str]:
    divide(folder, train=NAMES[:4], test=NAMES[4:])
    source = f"voc:{folder}"
    return make_manifest(source, source, None, seed=0, max_rejected=0).parts


def test_a_changed_annotation_renews_labels_and_nothing_else(folder: Path) -> None:
    before = manifest(folder)
    path = folder / "Annotations" / "000.xml"
    path.write_text(path.read_text().replace("disc", "ring"))
    after = manifest(folder)
    assert {name for name in before if before[name] != after[name]} == {"labels", "train_labels"}
    mask = folder / "SegmentationClass" / "005.png"
    Image.new("P", (80, 60), 1).save(mask)
    again = manifest(folder)
    assert {name for name in before if again[name] != after[name]} == {"labels", "test_labels"}


def test_photographs_are_kept_whole(folder: Path, tmp_path: Path) -> None:
    source = f"voc:{folder}"
    made = make_manifest(source, None, None, seed=0, max_rejected=0, hold_out=False)
    images = open_images(made.images, {"train": source}, 40, tmp_path / "cache", whole=True)
    pixels = images.read(np.arange(2))
    assert pixels.shape == (2, 40, 40, 3)
    assert extent_within(80, 60, 40) == (40, 30)
    assert (pixels[:, 30:] == 0).all()
    photograph = Image.open(folder / "JPEGImages" / "000.png").convert("RGB")
    expected = np.asarray(photograph.resize((40, 30), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(pixels[0, :30], expected)
    square = open_images(made.images, {"train": source}, 40, tmp_path / "cache")
    assert not np.array_equal(square.read(np.arange(2)), pixels)  # same size and same cache, but cropped
    assert resize_within(np.zeros((300, 1, 3), np.uint8), 20).shape == (20, 20, 3)
