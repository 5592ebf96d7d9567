"""Labels from a table beside the images."""

import io
import unicodedata

import pytest
from PIL import Image

from data.decode import content_sha256
from data.errors import ConfigError, DataError
from data.manifest import make_manifest


@pytest.fixture
def photos(tmp_path):
    for i in range(6):
        path = tmp_path / "photos" / ("a" if i < 3 else "b") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        file = io.BytesIO()
        Image.new("RGB", (4, 4), (40 * i, 0, 0)).save(file, "PNG")
        path.write_bytes(file.getvalue())
    return tmp_path


def labels_of(folder, rows, columns=("file_name", "label"), *, suffix="csv", **options):
    import pandas as pd

    path = folder / f"labels.{suffix}"
    frame = pd.DataFrame(rows, columns=list(columns))
    frame.to_csv(path, index=False, sep=options.pop("sep", ",")) if suffix == "csv" else frame.to_parquet(
        path
    )
    made = make_manifest(
        f"folder:{folder}/photos",
        options.pop("test", None),
        options.pop("unlabelled", None),
        seed=0,
        max_rejected=0,
        hold_out=False,
        labels=f"{suffix}:{path}",
    )
    names = made.classes or ()
    found = {
        row["uri"]: None if row["label"] is None else names[row["label"]] for row in made.images.to_pylist()
    }
    return found, made


ROWS = [("0.png", "x"), ("1.png", "y"), ("5.png", "x")]
EXPECTED = {"a/0.png": "x", "a/1.png": "y", "a/2.png": None, "b/3.png": None, "b/4.png": None, "b/5.png": "x"}


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize(
    "name_of",
    [
        lambda folder, name: name,
        lambda folder, name: f"./{'a' if name < '3' else 'b'}/{name}",
        lambda folder, name: f"{folder}/photos/{'a' if name < '3' else 'b'}/{name}",
        lambda folder, name: f"{'a' if name < '3' else 'b'}\\{name}",
    ],
)
def test_images_are_named_by_file_uri_or_any_longer_path(photos, suffix, name_of):
    rows = [(name_of(photos, name), label) for name, label in ROWS]
    found, made = labels_of(photos, rows, ("path", "label"), suffix=suffix)
    assert found == EXPECTED
    assert made.classes == ("x", "y")
    assert made.counts["labelled"] == 3
    assert not any("sub-folders" in guess for guess in made.guesses)  # the table replaces the folders


def test_images_are_named_by_content(photos):
    hashes = [
        content_sha256((photos / "photos" / f"{'a' if n < '3' else 'b'}/{n}").read_bytes()) for n, _ in ROWS
    ]
    rows = [(sha.upper(), label) for sha, (_, label) in zip(hashes, ROWS, strict=True)]
    assert labels_of(photos, rows, ("sha256", "label"))[0] == EXPECTED


def test_numbers_blanks_and_separators(photos):
    rows = [("0.png", 10.0), ("1.png", 2.0), ("2.png", None), ("3.png", "")]
    found, made = labels_of(photos, rows, ("Filename", "Label"), sep=";")
    assert made.classes == ("2", "10")
    assert (found["a/0.png"], found["a/1.png"], found["a/2.png"]) == ("10", "2", None)


def test_names_are_compared_in_one_unicode_form(photos):
    (photos / "photos/a/0.png").rename(photos / "photos/a" / unicodedata.normalize("NFD", "é.png"))
    found, made = labels_of(photos, [("é.png", unicodedata.normalize("NFD", "ü")), ("1.png", "ü")])
    assert made.classes == ("ü",)
    assert sum(label is not None for label in found.values()) == 2


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([("0.png", "x"), ("9.png", "x")], r"1 of 2 rows name no image: 9\.png"),
        ([("0.png", "x"), ("a/0.png", "y")], r"1 row contradicts others: a/0\.png \(x and y\)"),
        ([("0.png", None)], "no row with a label"),
        ([("0.png", 1.5)], "1.5"),
    ],
)
def test_rows_that_can_not_serve_are_refused_with_examples(photos, rows, said):
    if "1.5" in said:
        _, made = labels_of(photos, rows)  # in a text file this is a name
        assert made.classes == ("1.5",)
        return
    with pytest.raises(DataError, match=said):
        labels_of(photos, rows)


def test_a_row_that_names_two_images_or_one_of_the_unlabelled_is_refused(photos):
    (photos / "photos/c").mkdir()
    (photos / "photos/c/0.png").write_bytes((photos / "photos/a/1.png").read_bytes())
    with pytest.raises(DataError, match=r"name several images: 0\.png \(a/0\.png, c/0\.png\)"):
        labels_of(photos, ROWS)
    more = photos / "more"
    more.mkdir()
    (more / "z.png").write_bytes((photos / "photos/a/1.png").read_bytes())
    with pytest.raises(DataError, match=r"images of data\.unlabelled"):
        labels_of(photos, [("z.png", "x")], unlabelled=f"folder:{more}")


def test_a_table_that_can_not_serve_is_refused(photos):
    with pytest.raises(DataError, match="lacks one of the columns sha256, uri, path, file_name, filename"):
        labels_of(photos, ROWS, ("name", "label"))
    with pytest.raises(DataError, match="lacks the column label; it has file_name, class"):
        labels_of(photos, ROWS, ("file_name", "class"))
    for spec, error in (("csv:/no/such.csv", DataError), ("/no/such.csv", ConfigError)):
        with pytest.raises(error, match=r"data\.labels"):
            make_manifest(f"folder:{photos}/photos", None, None, seed=0, max_rejected=0, labels=spec)


def test_labels_of_test_images_come_from_the_table_too(photos):
    test = photos / "test"
    test.mkdir()
    (test / "t.png").write_bytes((photos / "photos/a/2.png").read_bytes())
    found, made = labels_of(photos, [*ROWS, ("t.png", "y")], test=f"folder:{test}")
    assert found["t.png"] == "y"
    assert made.counts["test_labelled"] == 1
