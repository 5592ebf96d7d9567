"""What the manifest contains, and what it depends on."""

import hashlib
import io
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from data import measured as module
from data.decode import content_sha256
from data.errors import DataError
from data.manifest import make_manifest
from data.measured import KNOWN, read_known, write_known
from data.reading import Reading
from data.schemas import MANIFEST, REJECTED

# The folder that holds cifar10-train.parquet and cifar10-test.parquet.
CIFAR = os.environ.get("KNOWLEDGE_TRANSFER_CIFAR10")


def put(root, path, value=0, size=(6, 4)):
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(value, bytes):
        file.write_bytes(value)
    else:
        Image.new("RGB", size, (value % 256, value // 256, 7)).save(file, "PNG")
    return file


def fill(root, classes=("ape", "bee"), count=5, start=0):
    for number, name in enumerate(classes):
        for i in range(count):
            put(root, f"{name}/{i:03d}.png", start + 1000 * number + i)
    return f"folder:{root}"


def make(train, test=None, unlabelled=None, seed=0, max_rejected=0.05, **options):
    return make_manifest(train, test, unlabelled, seed=seed, max_rejected=max_rejected, **options)


@pytest.fixture
def specs(tmp_path):
    """The sources of train, test and unlabelled images, as folders."""
    for i in range(4):
        put(tmp_path / "more", f"x/{i}.png", 5000 + i)
    return fill(tmp_path / "train"), fill(tmp_path / "test", count=2, start=300), f"folder:{tmp_path}/more"


# Rows


def test_rows_stand_as_the_contract_says(specs, tmp_path):
    made = make(*specs)
    assert made.images.schema.equals(MANIFEST)
    assert made.rejected.schema.equals(REJECTED)
    rows = made.images.to_pylist()
    assert [row["index"] for row in rows] == list(range(18))
    assert [row["split"] for row in rows] == ["train"] * 10 + ["unlabelled"] * 4 + ["test"] * 4
    for split in ("train", "unlabelled", "test"):
        uris = [row["uri"] for row in rows if row["split"] == split]
        assert uris == sorted(uris)
    assert [row["label"] for row in rows] == [0] * 5 + [1] * 5 + [None] * 4 + [0, 0, 1, 1]
    assert made.classes == ("ape", "bee")
    assert {(row["width"], row["height"]) for row in rows} == {(6, 4)}
    assert rows[3]["sha256"] == content_sha256((tmp_path / "train/ape/003.png").read_bytes())
    assert made.counts == {
        "listed": 18,
        "read": 18,
        "rejected": 0,
        "train": 10,
        "unlabelled": 4,
        "test": 4,
        "labelled": 10,
        "test_labelled": 4,
    }
    assert made.notes == []


def test_sizes_are_those_of_the_upright_image(tmp_path):
    tags = Image.Exif()
    tags[0x0112] = 6
    file = io.BytesIO()
    Image.new("RGB", (9, 5)).save(file, "JPEG", exif=tags)
    put(tmp_path, "a.jpg", file.getvalue())
    assert make(f"folder:{tmp_path}", hold_out=False).images.select(["width", "height"]).to_pylist() == [
        {"width": 5, "height": 9}
    ]


def test_digits_are_images_of_their_own_kind():
    made = make("digits", "digits")
    assert (made.counts["train"], made.counts["test"], made.counts["labelled"]) == (1437, 360, 1437)
    assert made.classes == tuple("0123456789")
    assert set(made.images["width"].to_pylist()) == {8}


def test_progress_ends_at_all(specs):
    seen = []
    make(*specs, report=lambda *now: seen.append(now))
    assert seen[0] == (0, 18)
    assert seen[-1] == (18, 18)
    assert seen == sorted(seen)


# Broken images


def test_broken_images_are_listed_with_a_reason(specs, tmp_path):
    file = io.BytesIO()
    Image.effect_noise((40, 40), 60).save(file, "PNG")
    put(tmp_path, "train/ape/cut.png", file.getvalue()[:800])
    put(tmp_path, "test/bee/page.png", b"<html>404</html>")
    (tmp_path / "more/x/gone.png").symlink_to(tmp_path / "nowhere")
    made = make(*specs, max_rejected=0.2)
    reasons = {(row["split"], row["uri"]): row["reason"] for row in made.rejected.to_pylist()}
    assert set(reasons) == {("train", "ape/cut.png"), ("unlabelled", "x/gone.png"), ("test", "bee/page.png")}
    assert "cut off" in reasons["train", "ape/cut.png"]
    assert "can't be read (No such file" in reasons["unlabelled", "x/gone.png"]
    assert "no image" in reasons["test", "bee/page.png"]
    assert made.images.num_rows == 18
    assert made.counts["rejected"] == 3
    assert "3 of 21 images" in made.notes[-1]


def test_too_many_broken_images_stop_the_run(specs, tmp_path):
    for i in range(2):
        put(tmp_path, f"train/ape/bad{i}.png", b"")
    with pytest.raises(
        DataError, match=r"2 of 20 images \(10\.0%\).*ape/bad0\.png \(train\): it is empty.*max_rejected"
    ):
        make(*specs, max_rejected=0.09)
    assert make(*specs, max_rejected=0.1).counts["rejected"] == 2


def test_nothing_usable_is_an_error(tmp_path):
    put(tmp_path / "a", "x.png", b"no")
    with pytest.raises(DataError, match="no usable images for train"):
        make(f"folder:{tmp_path}/a", fill(tmp_path / "t"), max_rejected=1.0)
    put(tmp_path / "one", "x.png")
    with pytest.raises(DataError, match=r"set data\.test"):
        make(f"folder:{tmp_path}/one")


# Labels


def test_labels_are_joined_by_name(tmp_path):
    train, test = (
        fill(tmp_path / "train", ("ant", "bee", "cow")),
        fill(tmp_path / "test", ("bee", "cow"), 1, 500),
    )
    made = make(train, test)
    assert [row["label"] for row in made.images.to_pylist() if row["split"] == "test"] == [1, 2]
    assert any("1 classes have no test images: ant" in note for note in made.notes)


def test_a_class_of_test_that_train_has_not_is_an_error(tmp_path):
    train, test = fill(tmp_path / "train"), fill(tmp_path / "test", ("ape", "gnu"), 1, 500)
    with pytest.raises(DataError, match=r"1 classes that train .* lacks, first 'gnu'; train has ape, bee"):
        make(train, test)


def test_without_labels_there_are_none(tmp_path):
    for i in range(30):
        put(tmp_path / "flat", f"{i}.png", i)
        put(tmp_path / "single", f"photos/{i}.png", i)
    assert make(f"folder:{tmp_path}/flat").classes is None
    single = make(f"folder:{tmp_path}/single")
    assert single.classes == ("photos",)
    assert set(single.images["label"].to_pylist()) == {0}
    assert "only one class (photos)" in single.notes[0]


def test_a_folder_for_each_image_is_doubted(tmp_path):
    train = fill(tmp_path / "train", tuple(f"c{i:02d}" for i in range(20)), 1)
    assert any("If the folders are not classes" in note for note in make(train, hold_out=False).notes)


def test_images_in_both_train_and_test_are_counted(specs, tmp_path):
    for i in range(2):
        shutil.copy(tmp_path / f"train/ape/00{i}.png", tmp_path / f"test/ape/copy{i}.png")
    assert "2 of 6 test images are also in train" in make(*specs).notes[0]


# The held-out part


def test_new_images_move_no_other(tmp_path):
    train = fill(tmp_path, count=30)
    before = {row["uri"]: row["split"] for row in make(train).images.to_pylist()}
    assert set(before.values()) == {"train", "test"}
    fill(tmp_path, ("ape", "bee", "cow"), count=60)
    after = {row["uri"]: row["split"] for row in make(train).images.to_pylist()}
    assert {uri: after[uri] for uri in before} == before
    assert set(make(train, hold_out=False).images["split"].to_pylist()) == {"train"}


# Parts


def changed(before, after):
    return {name for name in before.parts if before.parts[name] != after.parts[name]}


def test_each_change_shows_in_its_parts_alone(specs, tmp_path):
    base = make(*specs)
    assert set(base.parts) == {"train", "unlabelled", "test", "labels", "train_labels", "test_labels"}
    put(tmp_path, "more/x/9.png", 1)
    step = make(*specs)
    assert changed(base, step) == {"unlabelled"}
    put(tmp_path, "test/bee/000.png", 999)  # other pixels, same label
    base, step = step, make(*specs)
    assert changed(base, step) == {"test"}
    put(tmp_path, "test/bee/new.png", 998)
    base, step = step, make(*specs)
    assert changed(base, step) == {"test", "labels", "test_labels"}
    os.rename(tmp_path / "train/ape/000.png", tmp_path / "train/bee/a.png")
    base, step = step, make(*specs)
    assert changed(base, step) == {"train", "labels", "train_labels"}


def test_a_label_in_parquet_changes_labels_alone(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    images = [{"bytes": put(tmp_path, "x.png", i).read_bytes(), "path": f"{i}.png"} for i in range(6)]
    made = []
    for labels in ([0, 1, 0, 1, 0, 1], [0, 1, 0, 1, 1, 1]):
        pq.write_table(pa.table({"image": images, "label": labels}), tmp_path / "x.parquet")
        made.append(make(f"parquet:{tmp_path}/x.parquet", hold_out=False))
    assert changed(*made) == {"labels", "train_labels"}


def test_where_the_images_lie_changes_nothing(specs, tmp_path):
    base = make(*specs)
    shutil.copytree(tmp_path, tmp_path.parent / f"{tmp_path.name}-copy")
    moved = make(*(spec.replace(tmp_path.name, f"{tmp_path.name}-copy") for spec in specs))
    assert moved.images.equals(base.images)
    assert moved.parts == base.parts
    assert (moved.guesses, moved.notes, moved.understood) == (base.guesses, base.notes, base.understood)
    assert "train: sub-folders are taken as classes ('ape', 'bee')" in base.guesses


# What is remembered


@pytest.fixture
def reads(monkeypatch):
    seen = []
    measure_one = module._measure_one

    def counting(data, reading, keep):
        seen.append(data)
        return measure_one(data, reading, keep)

    monkeypatch.setattr(module, "_measure_one", counting)
    return seen


def test_a_rerun_lists_but_does_not_reread(specs, tmp_path, reads):
    put(tmp_path, "train/ape/bad.png", b"broken")
    first = make(*specs, max_rejected=0.1)
    assert len(reads) == 19
    assert first.known.schema.equals(KNOWN)
    write_known(tmp_path / "state/known.parquet", first.known)
    known = read_known(tmp_path / "state/known.parquet")
    reads.clear()
    second = make(*specs, max_rejected=0.1, known=known)
    assert reads == []
    assert second.counts["read"] == 0
    assert second.images.equals(first.images)
    assert second.rejected.equals(first.rejected)
    assert second.parts == first.parts
    assert second.known.equals(first.known)
    put(tmp_path, "train/ape/000.png", 77, size=(9, 9))
    put(tmp_path, "train/ape/new.png", 78)
    third = make(*specs, max_rejected=0.1, known=known)
    assert len(reads) == third.counts["read"] == 2
    assert third.images.equals(make(*specs, max_rejected=0.1).images)


def test_train_and_test_with_equal_names_are_remembered_apart(tmp_path):
    for folder, value in (("train", 1), ("test", 2)):
        file = put(tmp_path / folder, "same.png", value)
        os.utime(file, ns=(10**18, 10**18))
    specs = f"folder:{tmp_path}/train", f"folder:{tmp_path}/test"
    first = make(*specs)
    assert make(*specs, known=first.known).images.equals(first.images)
    assert len(set(first.images["sha256"].to_pylist())) == 2


def test_what_could_not_be_read_is_tried_again(specs, tmp_path):
    (tmp_path / "train/ape/later.png").symlink_to(tmp_path / "later.png")
    first = make(*specs, max_rejected=0.1)
    assert "ape/later.png" not in first.known["uri"].to_pylist()
    put(tmp_path, "later.png", 5)
    assert make(*specs, known=first.known).counts["rejected"] == 0


def test_a_memory_that_is_not_readable_is_no_memory(tmp_path):
    assert read_known(tmp_path / "none.parquet") is None
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    assert read_known(tmp_path / "bad.parquet") is None


def test_worker_processes_find_the_same(specs, tmp_path, monkeypatch):
    put(tmp_path, "train/bee/bad.png", b"broken")
    alone = make(*specs, max_rejected=0.1)
    monkeypatch.setattr(module, "_INLINE", 0)
    monkeypatch.setattr(module, "_BATCH", 3)
    together = make(specs[0], specs[1], max_rejected=0.1, workers=2)
    assert together.rejected.equals(alone.rejected)
    rows = [row for row in alone.images.to_pylist() if row["split"] != "unlabelled"]
    for row, other in zip(rows, together.images.to_pylist(), strict=True):
        assert {**row, "index": 0} == {**other, "index": 0}


@pytest.mark.slow
@pytest.mark.skipif(not CIFAR, reason="KNOWLEDGE_TRANSFER_CIFAR10 names no folder")
def test_cifar10():
    made = make(
        f"parquet:{CIFAR}/cifar10-train.parquet", f"parquet:{CIFAR}/cifar10-test.parquet", max_rejected=0
    )
    assert (made.counts["train"], made.counts["test"], len(made.classes)) == (50_000, 10_000, 10)
    assert set(made.images["width"].to_pylist()) == {32}
    assert np.bincount(made.images["label"].to_numpy()).tolist() == [6000] * 10
    assert made.notes == []


# Wide values and bands


def deep(root, path, low, high, seed=0, dtype=np.uint16):
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(low, high + 1, (30, 40)).astype(dtype)
    Image.fromarray(values).save(file, "TIFF" if dtype == np.float32 else "PNG")


@pytest.fixture
def wide_specs(tmp_path):
    for i in range(4):
        deep(tmp_path, f"train/{'ab'[i % 2]}/{i}.png", 300, 4000, i)
        deep(tmp_path, f"more/{i}.png", 300, 4000, 10 + i)
        deep(tmp_path, f"test/{'ab'[i % 2]}/{i}.png", 300, 20_000, 20 + i)
    return [f"folder:{tmp_path}/{name}" for name in ("train", "test", "more")]


def test_a_set_of_8_bits_has_the_parts_it_always_had(specs):
    made = make(*specs, reading=Reading(value_range=(0.0, 9.0), max_pixels=10**9))
    assert made.reading == {}
    rows = [row for row in made.images.to_pylist() if row["split"] == "unlabelled"]
    lines = "".join(f"{row['uri']}\0{row['sha256']}\n" for row in rows)
    assert made.parts["unlabelled"] == hashlib.sha256(lines.encode()).hexdigest()
    assert made.parts == make(*specs).parts


def test_wide_images_have_one_scale_from_train_and_unlabelled(wide_specs, tmp_path):
    made = make(*wide_specs)
    assert made.reading["value_range"] == [300, 4000]
    assert made.reading["channels"] == 3
    assert made.reading["clipped"]["images"] == 4
    assert made.reading["clipped"]["share"] == pytest.approx(16 / 20 / 3, rel=0.05)
    assert any("300 becomes 0 and 4000 becomes 255" in note for note in made.notes)
    assert any("less than a tenth of their range: 300 to 4000 of 0 to 65535" in note for note in made.notes)
    again = make(*wide_specs, known=made.known)
    assert again.counts["read"] == 0
    assert (again.reading, again.parts) == (made.reading, made.parts)
    other = make(*wide_specs, reading=Reading(value_range=(0.0, 65535.0)))
    assert other.reading["value_range"] == [0, 65535]
    assert other.reading["clipped"] == {"share": 0, "images": 0}
    changed = {part for part in made.parts if made.parts[part] != other.parts[part]}
    assert changed == {"train", "unlabelled", "test"}
    deep(tmp_path, "test/a/9.png", 0, 65_000)
    assert make(*wide_specs).reading["value_range"] == [300, 4000]
    deep(tmp_path, "more/9.png", 0, 65_000)
    assert make(*wide_specs).reading["value_range"][1] > 4000


def test_bands_are_recorded_and_decide_the_parts(specs):
    chosen = make(*specs, reading=Reading(bands=(3, 2, 1)))
    assert chosen.reading == {"bands": [3, 2, 1], "channels": 3}
    assert chosen.parts["train"] != make(*specs).parts["train"]
    assert chosen.parts["labels"] == make(*specs).parts["labels"]


def test_an_image_that_needs_a_library_is_tried_again(specs, tmp_path, monkeypatch):
    put(tmp_path, "train/ape/phone.jpg", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99))
    monkeypatch.setattr("data.decode._heif_installed", lambda: False)
    first = make(*specs, max_rejected=0.1)
    assert first.rejected["reason"].to_pylist() == [
        "it is HEIC, as iPhones write it; install pillow-heif to read it"
    ]
    second = make(*specs, max_rejected=0.1, known=first.known)
    assert (second.counts["read"], second.counts["rejected"]) == (1, 1)
