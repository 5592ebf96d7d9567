"""docs/data.md: what people have, the line that they write, and what is understood. Each row is a test."""

from __future__ import annotations

import io
import os
import re
import unicodedata
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import dropwhile, takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data.errors import UserError
from data.store import Store
from flows.estimate import estimate
from flows.recipes import keeps_draw, override, parse_settings
from tasks.config import Config
from tasks.feasible import refuse, refuse_labels
from tasks.job import run
from tasks.stages import manifest
from tasks.understood import describe, without_labels

PAGE = Path(__file__).parents[2] / "docs" / "data.md"


def png(seed: int, side: int = 20) -> bytes:
    rng = np.random.default_rng(seed)
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def put(folder: Path, **images: int) -> None:
    """Write noise images: folder (with __ for /; `_` is the top) -> how many."""
    for at, (name, count) in enumerate(images.items()):
        below = folder if name == "_" else folder / name.replace("__", "/")
        below.mkdir(parents=True, exist_ok=True)
        for i in range(count):
            (below / f"{name}-{i:03d}.png").write_bytes(png(1000 * (at + 1) + i + hash_of(folder.name)))


def hash_of(text: str) -> int:
    return sum(map(ord, text)) * 100_000


def table(path: Path, count: int = 24, start: int = 0, **columns: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": png(start + i), "path": f"{i}.png"} for i in range(count)]
    named = {name: values(images) if callable(values) else values for name, values in columns.items()}
    pq.write_table(pa.table(named), path)


def whole(images: Any) -> Any:
    return images


@dataclass(frozen=True)
class Case:
    """A row of docs/data.md.

    Attributes:
        make: writes what the user has.
        lines: the settings that the user writes; `photos` is relative to the folder that `make` gets.
        says: patterns that must be among the sentences, or in the refusal.
        refused: whether the run is refused.
    """

    make: Callable[[Path], object]
    lines: str
    says: tuple[str, ...]
    refused: bool = False


def splits(folder: Path) -> None:
    put(folder, photos__train__cat=8, photos__train__dog=8, photos__val__cat=3, photos__val__dog=3)


def strays(folder: Path) -> None:
    put(folder, photos__cat=12, photos__dog=12, photos=1)
    (folder / "photos" / "LICENSE").write_text("Do as you like.")


def dates(folder: Path) -> None:
    for day in ("2024-01-05", "2024-02-11 beach"):
        (folder / "photos" / day).mkdir(parents=True)
        for i in range(10):
            (folder / "photos" / day / f"{i}.png").write_bytes(png(i + len(day)))


def csv(folder: Path) -> None:
    put(folder, photos=20)
    rows = [f"photos-{i:03d}.png,{'cat' if i % 2 else 'dog'}" for i in range(12)]
    (folder / "photos" / "labels.csv").write_text("\n".join(["file_name,label", *rows]))


def three(folder: Path) -> None:
    put(folder / "labelled", cat=5, dog=5)
    put(folder / "photos", _=30)
    put(folder / "test", cat=4, dog=4)


def two_labels(folder: Path) -> None:
    table(folder / "a.parquet", image=whole, fine_label=[i % 4 for i in range(24)], coarse_label=[0, 1] * 12)


def split_column(folder: Path) -> None:
    split = ["train"] * 20 + ["test"] * 4
    table(folder / "a.parquet", image=whole, label=[0, 1] * 12, split=split)


def in_one(folder: Path) -> None:
    for split, count, start in (("train", 24, 0), ("validation", 6, 100), ("test", 9, 200)):
        labels = [i % 2 for i in range(count)]
        table(folder / f"data/{split}-00000-of-00001.parquet", count, start, image=whole, label=labels)


def archive(folder: Path) -> None:
    put(folder, photos__cat=8, photos__dog=8)
    with zipfile.ZipFile(folder / "photos.zip", "w") as file:
        for path in sorted((folder / "photos").rglob("*.png")):
            file.write(path, path.relative_to(folder / "photos"))


def nas(folder: Path) -> None:
    put(folder, photos__cat=8, photos__dog=8, **{"photos__@eaDir__cat": 3, "photos__.thumbs": 2})


def store_inside(folder: Path) -> None:
    put(folder, photos__cat=8, photos__dog=8)
    Store(folder / "photos" / "store")
    (folder / "photos" / "store" / "cache" / "x.png").write_bytes(png(1))
    (folder / "photos" / "venv").mkdir()
    (folder / "photos" / "venv" / "pyvenv.cfg").write_text("")
    (folder / "photos" / "venv" / "logo.png").write_bytes(png(2))


def unicode(folder: Path) -> None:
    for name, form in (("photos", "NFC"), ("test", "NFD")):
        put(folder / name, tea=6)
        put(folder / name / unicodedata.normalize(form, "café"), _=6)


def copies(folder: Path) -> None:
    put(folder, photos=1)
    for i in range(30):
        (folder / "photos" / f"copy{i}.png").write_bytes((folder / "photos/photos-000.png").read_bytes())


def conflict(folder: Path) -> None:
    put(folder, photos__cat=12, photos__dog=12)
    for i in range(3):
        content = (folder / f"photos/cat/photos__cat-00{i}.png").read_bytes()
        (folder / f"photos/dog/also-{i}.png").write_bytes(content)


def leak(folder: Path) -> None:
    three(folder)
    for i in range(2):
        content = (folder / f"test/cat/cat-00{i}.png").read_bytes()
        (folder / f"labelled/cat/leak-{i}.png").write_bytes(content)
        (folder / f"photos/leak-{i}.png").write_bytes(content)


def pipe(folder: Path) -> None:
    put(folder, photos__cat=8, photos__dog=8)
    os.mkfifo(folder / "photos" / "cat" / "camera.png")


def broken(folder: Path) -> None:
    put(folder, photos__cat=12, photos__dog=12)
    (folder / "photos/cat/page.jpg").write_bytes(b"<html>404</html>")
    (folder / "photos/dog/cut.png").write_bytes(png(3)[:300])


def scans(folder: Path) -> None:
    for i in range(20):
        path = folder / "photos" / ("ill" if i % 2 else "well") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        values = np.random.default_rng(i).integers(0, 4096, (20, 20), np.uint16)
        Image.fromarray(values).save(path)


def infrared(folder: Path) -> None:
    for i in range(20):
        path = folder / "photos" / ("crop" if i % 2 else "wood") / f"{i}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        values = np.random.default_rng(i).integers(0, 256, (20, 20, 4), np.uint8)
        Image.fromarray(values, "RGBX").save(path)


def phone(folder: Path) -> None:
    put(folder, photos__cat=8, photos__dog=8)
    (folder / "photos/cat/IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(60))


def large(folder: Path) -> None:
    put(folder, photos__cat=12, photos__dog=12)
    Image.new("L", (300, 300)).save(folder / "photos/cat/scan.png")


PHOTOS = "data.train=folder:photos"
NONE = "data.labels_per_class=null"
CASES: dict[str, Case] = {
    "photographs in one folder": Case(
        lambda folder: put(folder, photos=20),
        PHOTOS,
        ("labels: none", "held out .* no labels"),
    ),
    "one sub-folder per class": Case(
        lambda folder: put(folder, photos__cat=8, photos__dog=9),
        PHOTOS,
        (r"classes: 2, by training images: cat \d+, dog \d+", "guess: .*taken as classes", "uses 4 of your"),
    ),
    "folders train and val, class folders inside": Case(
        splits, PHOTOS, ("16 for training", "6 images, the test split of data.train", "guess: .*as splits")
    ),
    "a licence or a chart beside the class folders": Case(
        strays,
        PHOTOS,
        ("classes: 2, ", "note: .*1 file is no image, first 'LICENSE'", "1 image lies beside the class"),
    ),
    "many photographs in a folder, and a few of them in class folders inside it": Case(
        lambda folder: put(folder, photos__cat=8, photos__dog=8, photos=40),
        PHOTOS,
        (
            "classes: 2, ",
            "40 of 56 images are not in a sub-folder: they are taken as unlabelled",
            r"unlabelled: \d+ training images have no label",
        ),
    ),
    "a folder unlabelled beside the class folders": Case(
        lambda folder: put(folder, photos__cat=8, photos__dog=8, photos__unlabelled=20),
        PHOTOS,
        (
            "classes: 2, ",
            "20 images are taken as unlabelled",
            r"unlabelled: \d+ training images have no label",
        ),
    ),
    "folders by date, as a camera or a phone writes them": Case(
        dates, f"{PHOTOS} {NONE}", ("labels: none", r"are dates .* write folder:.*\?folders=classes")
    ),
    "folders by date that are classes": Case(
        dates, f"{PHOTOS}?folders=classes", (r"classes: 2, by training images: 2024-01-05 \d+",)
    ),
    "photographs, and a table of labels": Case(
        csv,
        f"{PHOTOS} data.labels=csv:photos/labels.csv",
        (r"classes: 2, by training images: cat \d+, dog \d+", "uses all", "training images have no label"),
    ),
    "classes with many and with few labels": Case(
        lambda folder: put(folder, photos__cat=24, photos__dog=5),
        f"{PHOTOS} {NONE} finetune.balanced=true",
        (r"labels: \d to \d\d per class; every class counts the same",),
    ),
    "few labelled images, many without labels, and a test set": Case(
        three,
        "data.train=folder:labelled data.unlabelled=folder:photos data.test=folder:test",
        (
            "10 for training",
            "labels: uses all 10",
            "30 more images, from data.unlabelled",
            "8 images from data.te",
        ),
    ),
    "Parquet in the Hugging Face layout": Case(
        lambda folder: table(folder / "a.parquet", image=whole, label=["x", "y"] * 12),
        "data.train=parquet:a.parquet",
        (r"classes: 2, by training images: x \d+, y \d+",),
    ),
    "Parquet with columns of other names": Case(
        lambda folder: table(folder / "a.PARQUET", img=whole, labels=["x", "y"] * 12),
        "data.train=parquet:a.PARQUET",
        ("guess: .*column 'img' holds the images", "guess: .*column 'labels' holds the labels", "classes: 2"),
    ),
    "Parquet with several columns of labels": Case(
        two_labels,
        "data.train=parquet:a.parquet",
        (r"several columns may hold the labels \(fine_label, coarse_label\).*data\.label_column",),
        refused=True,
    ),
    "Parquet with several columns of labels, one of them chosen": Case(
        two_labels, "data.train=parquet:a.parquet data.label_column=fine_label", ("classes: 4, ",)
    ),
    "Parquet files for train and test in one folder": Case(
        in_one,
        "data.train=parquet:data",
        ("24 for training", "test: 9 images, the test split of data.train", "guess: .*24 of 39 rows"),
    ),
    "Parquet with a column that says the split": Case(
        split_column,
        "data.train=parquet:a.parquet",
        ("20 for training", "test: 4 images, the test split"),
    ),
    "Parquet whose labels have gaps, so that pandas wrote floats": Case(
        lambda folder: table(folder / "a.parquet", image=whole, label=[0.0, 1.0, None] * 8),
        "data.train=parquet:a.parquet",
        (r"classes: 2, by training images: 0 \d+, 1 \d+", "training images have no label"),
    ),
    "Parquet that holds paths but no bytes": Case(
        lambda folder: table(
            folder / "a.parquet",
            image=lambda images: [{"bytes": None, "path": image["path"]} for image in images],
        ),
        "data.train=parquet:a.parquet",
        (r"its bytes are null and only its path is given \('0\.png'\)",),
        refused=True,
    ),
    "a ZIP archive, also at a URL": Case(
        archive,
        "data.train=folder:zip://::photos.zip",
        (r"classes: 2, by training images: cat \d+, dog \d+",),
    ),
    "folders of a NAS, hidden folders": Case(
        nas, PHOTOS, ("classes: 2, ", r"note: .*2 folders are left out .*'\.thumbs', '@eaDir'")
    ),
    "the store or a virtual environment among the images": Case(
        store_inside, PHOTOS, ("classes: 2, ", "note: .*2 folders are left out .*'store', 'venv'")
    ),
    "class names from macOS and from Linux": Case(
        unicode, f"{PHOTOS} data.test=folder:test", ("classes: 2, by training images: café 6, tea 6",)
    ),
    "a class with fewer labels than are asked for": Case(
        lambda folder: put(folder, photos__cat=8, photos__dog=20),
        f"{PHOTOS} data.labels_per_class=10",
        (r"data\.labels_per_class = 10, but 'cat' has \d; set at most \d, or data\.labels_short=take",),
        refused=True,
    ),
    "a class with fewer labels, all of which are to be used": Case(
        lambda folder: put(folder, photos__cat=8, photos__dog=20),
        f"{PHOTOS} data.labels_per_class=10 data.labels_short=take",
        (r"labels: uses 1\d of your 2\d labels: data\.labels_per_class=10",),
    ),
    "one class only": Case(
        lambda folder: put(folder, photos__cat=20), PHOTOS, ("only one class .'cat'.",), refused=True
    ),
    "no labels, although you ask for some": Case(
        lambda folder: put(folder, photos=20),
        f"{PHOTOS} data.labels_per_class=5",
        ("data.labels_per_class=5 asks for labels, but no training image has one; looked for one sub-f",),
        refused=True,
    ),
    "copies of one image": Case(
        copies,
        f"{PHOTOS} {NONE} data.test=folder:photos",
        ("only 1 of the 31 training images differ",),
        refused=True,
    ),
    "one image in two class folders": Case(
        conflict, PHOTOS, ("note: 3 images have two labels, .* cat and dog",)
    ),
    "test images among the training images": Case(
        leak,
        "data.train=folder:labelled data.unlabelled=folder:photos data.test=folder:test",
        (
            "note: 2 of 8 test images are also in train",
            "note: 2 of 8 test images are also in data.unlabelled",
        ),
    ),
    "a named pipe among the images": Case(
        pipe, PHOTOS, (r"note: .*1 is no regular file and is left out: 'cat/camera\.png'",)
    ),
    "scans of 12 or 16 bits, float images": Case(
        scans, PHOTOS, ("note: 20 of 20 images have wide values .uint16.; in all of them 0 becomes 0 and 4",)
    ),
    "more bands, such as infrared": Case(
        infrared, PHOTOS, ("it has 4 bands; choose three with data.bands=1,2,3",), refused=True
    ),
    "more bands, some of them chosen": Case(infrared, f"{PHOTOS} data.bands=4,1,2", ("classes: 2, ",)),
    "photographs of an iPhone": Case(
        phone, f"{PHOTOS} data.max_rejected=0.1", ("left out: 1 because it is HEIC",)
    ),
    "an image that is larger than the limit": Case(
        large,
        f"{PHOTOS} data.max_pixels=50000",
        ("left out: 1 because it has 90,000 pixels, more than the 50,0",),
    ),
    "broken images": Case(
        broken,
        f"{PHOTOS} data.max_rejected=0.1",
        ("left out: .*1 because it is cut off", "note: 2 of 26 images"),
    ),
}


def asked(folder: Path, lines: str) -> Config:
    """The configuration of `run digits --set ...` in the user's folder."""
    given = parse_settings(["data.test=null", "cluster.k=6", *lines.split()])
    quick = {"predict": {"neighbours": 3}, "store": str(folder / "below" / "store")}
    from flows.recipes import recipe

    return override(recipe("digits"), {**given, **quick})


def understand(config: Config) -> list[str]:
    """Make the manifest, and return what a run says of it."""
    store = Store(config.store)
    request = manifest.plan(config)
    made, _ = run(request, store, config.compute, lambda event: None, lambda: False, {})
    seen = store.meta(made)
    recipes = keeps_draw(config)
    refuse_labels(config, seen, recipes=recipes)
    refuse(config, seen)
    return [*describe(config, seen, recipes=recipes), without_labels(config, seen) or ""]


@pytest.mark.parametrize("have", CASES)
def test_what_people_have(have, tmp_path, monkeypatch):
    case = CASES[have]
    monkeypatch.chdir(tmp_path)
    case.make(tmp_path)
    config = asked(tmp_path, case.lines)
    if case.refused:
        for attempt in (understand, lambda config: estimate(config).understood):
            with pytest.raises(UserError) as refusal:
                attempt(config)
            for pattern in case.says:
                assert re.search(pattern, str(refusal.value))
        return
    said = "\n".join(understand(config))
    looked = "\n".join(estimate(config).understood)
    for pattern in case.says:
        assert re.search(pattern, said), said
        assert re.search(pattern, looked), looked


def test_the_page_has_these_rows():
    lines = iter(PAGE.read_text(encoding="utf-8").splitlines())
    table = takewhile(bool, dropwhile(lambda line: not line.startswith("| "), lines))  # the first one
    rows = [line.split("|") for line in table]
    written = {row[1].strip(): row[2].strip().strip("`").replace("--set ", "") for row in rows[2:]}
    assert {have: case.lines for have, case in CASES.items()} == written
