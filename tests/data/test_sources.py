"""What each source lists and reads, and which errors it raises."""

import inspect
import io
import json
import os
import pickle
import subprocess
import sys
from collections import Counter
from types import ModuleType

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data.errors import ConfigError, DataError
from data.sources import Unreadable, open_source
from data.sources.torchvision import DATASETS


def png(value=0, size=(4, 4)):
    file = io.BytesIO()
    Image.new("RGB", size, (value % 256, 0, 0)).save(file, "PNG")
    return file.getvalue()


def put(root, path, content=b""):
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content or png())
    return file


def uris(source):
    return [entry.uri for entry in source.entries()]


# Specifications


@pytest.mark.parametrize(
    "spec", ["", "digit", "digits:8", "folders:x", "/some/where", "folder:", "parquet:", "voc"]
)
def test_an_unknown_source_names_the_known_ones(spec):
    with pytest.raises(ConfigError, match=r"known are digits, folder:PATH|write \w+:(PATH|NAME)"):
        open_source(spec, "train")


def test_an_unknown_protocol_is_a_configuration_error():
    with pytest.raises(ConfigError, match="nonsense"):
        open_source("folder:nonsense://bucket/x", "train").entries()


def test_only_torchvision_sources_import_torch(tmp_path):
    put(tmp_path, "a.png")
    code = (
        "import sys; from data.sources import Unreadable, open_source; open_source('digits', 'test'); "
        f"open_source({'folder:' + str(tmp_path)!r}, 'test').entries(); "
        "import data.manifest, data.sources.parquet, data.sources.torchvision; "
        "sys.exit('torch' in sys.modules or 'torchvision' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# digits


def test_digits_are_split_once_and_for_all():
    train, test = open_source("digits", "train"), open_source("digits", "test")
    assert len(train.entries()) == 1437
    assert len(test.entries()) == 360
    assert not set(uris(train)) & set(uris(test))
    # The split is stratified, so each of the 10 classes has 34 to 37 images.
    assert max(Counter(entry.label for entry in test.entries()).values()) <= 37
    assert min(Counter(entry.label for entry in test.entries()).values()) >= 34
    assert uris(open_source("digits", "unlabelled")) == uris(train)


def test_digits_are_the_published_ones_scaled_to_eight_bit():
    from sklearn.datasets import load_digits

    digits = load_digits()
    source = open_source("digits", "test")
    for entry, pixels in zip(source.entries(), source.read(source.entries()), strict=True):
        row = int(entry.uri.removeprefix("digits/"))
        assert pixels.shape == (8, 8, 3)
        assert pixels.dtype == np.uint8
        assert (np.ptp(pixels, axis=2) == 0).all()
        assert (np.rint(pixels[..., 0] * (16 / 255)) == digits.images[row]).all()
        assert source.classes[entry.label] == str(digits.target[row])
    assert max(pixels.max() for pixels in source.read(source.entries())) == 255


# folder


def test_sub_folders_are_classes_at_any_depth(tmp_path):
    put(tmp_path, "dog/1.png", png(1))
    put(tmp_path, "cat/deep/er/2.png", png(2))
    put(tmp_path, "cat/0.png", png(3))
    source = open_source(f"folder:{tmp_path}", "train")
    assert source.classes == ("cat", "dog")
    assert [(entry.uri, entry.label) for entry in source.entries()] == [
        ("cat/0.png", 0),
        ("cat/deep/er/2.png", 0),
        ("dog/1.png", 1),
    ]
    assert list(source.read(source.entries())) == [png(3), png(2), png(1)]
    file = tmp_path / "dog/1.png"
    assert (source.entries()[2].size, source.entries()[2].mtime) == (
        file.stat().st_size,
        file.stat().st_mtime_ns,
    )


def test_images_without_folders_have_no_labels_and_mixed_ones_say_so(tmp_path):
    put(tmp_path, "b.png")
    flat = open_source(f"folder:{tmp_path}", "train")
    assert flat.classes is None
    assert flat.remarks == ()
    put(tmp_path, "class/a.png")
    mixed = open_source(f"folder:{tmp_path}", "train")
    assert [(entry.uri, entry.label) for entry in mixed.entries()] == [("b.png", None), ("class/a.png", None)]
    assert mixed.classes is None
    assert "no labels" in mixed.named(mixed.entries()).guesses[0]


def test_what_is_certainly_no_image_is_passed_over_and_the_rest_is_tried(tmp_path):
    for name in (
        ".hidden.png",
        ".git/a.png",
        "labels.csv",
        "README.MD",
        "x/meta.json",
        "notes.txt",
        "list.tsv",
    ):
        put(tmp_path, name, b"text")
    for name in ("a/no_extension", "a/odd.xyz", "b/image.PNG"):
        put(tmp_path, name)
    source = open_source(f"folder:{tmp_path}", "train")
    assert uris(source) == ["a/no_extension", "a/odd.xyz", "b/image.PNG"]
    assert source.classes == ("a", "b")


def test_links_are_followed_but_not_in_circles(tmp_path):
    put(tmp_path, "here/a/1.png", png(7))
    (tmp_path / "here/a/up").symlink_to(tmp_path / "here")
    (tmp_path / "here/b").symlink_to(tmp_path / "here/a")
    (tmp_path / "here/a/gone.png").symlink_to(tmp_path / "nowhere.png")
    source = open_source(f"folder:{tmp_path}/here", "train")
    assert {"a/1.png", "b/1.png", "a/gone.png"} <= set(uris(source))
    assert all(uri.count("up") == 0 for uri in uris(source))
    gone = [entry for entry in source.entries() if entry.uri == "a/gone.png"]
    (reason,) = source.read(gone)
    assert isinstance(reason, Unreadable)
    assert "No such file" in reason


def test_names_in_any_writing_and_encoding(tmp_path):
    content = {"日本/ねこ 1.png": png(1), "日本/a#b%20?.png": png(2), "Ünïcode/é.png": png(3)}
    for name, data in content.items():
        put(tmp_path, name, data)
    with open(os.path.join(os.fsencode(tmp_path), b"\xdcn.png"), "wb") as file:  # Latin-1
        file.write(png(4))
    source = open_source(f"folder:{tmp_path}", "train")
    found = dict(zip(uris(source), source.read(source.entries()), strict=True))
    assert found == {**content, "\\xdcn.png": png(4)}
    assert all(uri.encode() for uri in found)
    assert list(source.read(source.find(["\\xdcn.png", "日本/ねこ 1.png"]))) == [png(4), png(1)]


def test_folders_that_can_not_serve(tmp_path):
    with pytest.raises(DataError, match="doesn't exist"):
        open_source(f"folder:{tmp_path}/missing", "train").entries()
    with pytest.raises(DataError, match="no images"):
        open_source(f"folder:{tmp_path}", "train").entries()
    put(tmp_path, "a.png")
    with pytest.raises(DataError, match="is a file"):
        open_source(f"folder:{tmp_path}/a.png", "train").entries()


@pytest.fixture
def memory():
    filesystem = fsspec.filesystem("memory")
    yield filesystem
    filesystem.store.clear()
    filesystem.pseudo_dirs.clear()


def test_a_url_lists_and_reads_as_a_local_folder_does(tmp_path, memory):
    for number, name in enumerate(
        ["cat/a.png", "cat/deep/b.png", "dog/c", "dog/.hidden.png", "dog/x.txt", ".x/d.png"]
    ):
        put(tmp_path, name, png(number))
        memory.pipe(f"/photos/{name}", png(number))
    local, remote = open_source(f"folder:{tmp_path}", "train"), open_source("folder:memory://photos", "train")
    assert uris(remote) == uris(local) == ["cat/a.png", "cat/deep/b.png", "dog/c"]
    assert remote.classes == local.classes
    assert [entry.label for entry in remote.entries()] == [entry.label for entry in local.entries()]
    assert list(remote.read(remote.entries())) == list(local.read(local.entries()))
    assert all(entry.mtime > 0 and entry.size > 0 for entry in remote.entries())
    with pytest.raises(DataError, match="no such folder"):
        open_source("folder:memory://elsewhere", "train").entries()


# parquet


IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write(path, images, labels=None, names=None, rows=None, kind=None):
    columns = {"image": pa.array(images, kind or IMAGE)}
    if labels is not None:
        columns["label"] = pa.array(labels)
    table = pa.table(columns)
    if names is not None:
        features = {"label": {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=rows or len(images))
    return path


def rows(count, start=0):
    return [
        {"bytes": bytes([start + i]) * 5, "path": f"p/{(start + i) * 7 % 100:03d}.png"} for i in range(count)
    ]


def test_parquet_in_the_hugging_face_layout(tmp_path):
    path = write(tmp_path / "a.parquet", rows(20), [i % 2 for i in range(20)], names=["zebra", "ape"], rows=6)
    source = open_source(f"parquet:{path}", "train")
    assert source.classes == ("zebra", "ape")  # in the order of the metadata, which the labels refer to
    assert uris(source) == sorted(row["path"] for row in rows(20))
    expected = {row["path"]: (row["bytes"], i % 2) for i, row in enumerate(rows(20))}
    for entry, data in zip(source.entries(), source.read(source.entries()), strict=True):
        assert (data, entry.label) == expected[entry.uri]


def test_parquet_is_read_in_whatever_order_is_asked(tmp_path):
    write(tmp_path / "d/one.parquet", rows(15), rows=4)
    write(tmp_path / "d/two.parquet", rows(15, 20), rows=100)
    source = pickle.loads(pickle.dumps(open_source(f"parquet:{tmp_path}/d", "train")))
    content = {row["path"]: row["bytes"] for row in rows(15) + rows(15, 20)}
    entries = source.entries()
    for seed in range(3):
        chosen = [entries[i] for i in np.random.default_rng(seed).integers(0, len(entries), 40)]
        assert list(source.read(chosen)) == [content[entry.uri] for entry in chosen]
    batches = list(source.batches(entries, 2))
    assert [len(batch) for batch in batches] == [4, 4, 4, 3, 15]  # one batch per row group
    assert sorted(entry.uri for batch in batches for entry in batch) == uris(source)


def test_parquet_folder_glob_and_url_are_the_same_source(tmp_path, memory):
    for name, start in (("x-0.parquet", 0), ("deep/x-1.parquet", 20)):
        memory.pipe(f"/set/{name}", write(tmp_path / "set" / name, rows(5, start), rows=2).read_bytes())
    write(tmp_path / "set/.hidden.parquet", rows(5, 60))
    (tmp_path / "set/readme.txt").write_text("no Parquet")
    specs = [
        f"{tmp_path}/set",
        f"{tmp_path}/set/**/x-*.parquet",
        "memory://set",
        "memory://set/**/x-*.parquet",
    ]
    found = []
    for spec in specs:
        source = open_source(f"parquet:{spec}", "train")
        found.append(
            [(uri, data) for uri, data in zip(uris(source), source.read(source.entries()), strict=True)]
        )
    assert len(found[0]) == 10
    assert all(other == found[0] for other in found)


def test_parquet_uris_are_unique_whatever_the_paths(tmp_path):
    images = [
        {"bytes": b"1", "path": "a.png"},
        {"bytes": b"2", "path": "a.png"},
        {"bytes": b"3", "path": None},
    ]
    write(tmp_path / "n.parquet", [*images, {"bytes": b"4", "path": "b.png"}])
    source = open_source(f"parquet:{tmp_path}/n.parquet", "train")
    content = dict(zip(uris(source), source.read(source.entries()), strict=True))
    assert content == {
        "a.png#n.parquet#0": b"1",
        "a.png#n.parquet#1": b"2",
        "n.parquet#2": b"3",
        "b.png": b"4",
    }


def test_parquet_of_plain_bytes_with_string_labels_and_gaps(tmp_path):
    write(
        tmp_path / "p.parquet",
        [b"1", None, b"3", b"4"],
        ["pear", "apple", None, "pear"],
        kind=pa.large_binary(),
    )
    source = open_source(f"parquet:{tmp_path}/p.parquet", "train")
    assert source.classes == ("apple", "pear")
    assert [entry.label for entry in source.entries()] == [1, 0, None, 1]
    assert list(source.read(source.entries())) == [b"1", b"", b"3", b"4"]


@pytest.mark.parametrize(
    ("labels", "classes", "expected"),
    [
        ([10, 2, 10], ("2", "10"), [1, 0, 1]),  # sorted as numbers, not as text
        ([-1, 0, 1], ("0", "1"), [None, 0, 1]),  # -1 hides the label, as in published test sets
        ([-1, -1, -1], None, [None, None, None]),
        (["b", "a", "b"], ("a", "b"), [1, 0, 1]),
    ],
)
def test_parquet_labels(tmp_path, labels, classes, expected):
    write(tmp_path / "l.parquet", rows(3), labels)
    source = open_source(f"parquet:{tmp_path}/l.parquet", "train")
    assert source.classes == classes
    by_uri = {entry.uri: entry.label for entry in source.entries()}
    assert [by_uri[row["path"]] for row in rows(3)] == expected


def test_parquet_files_that_can_not_serve(tmp_path):
    with pytest.raises(DataError, match="no Parquet file"):
        open_source(f"parquet:{tmp_path}/none.parquet", "train").entries()
    pq.write_table(pa.table({"name": ["x"], "label": [1]}), tmp_path / "column.parquet")
    with pytest.raises(DataError, match="no column of images, only name, label"):
        open_source(f"parquet:{tmp_path}/column.parquet", "train").entries()
    pq.write_table(pa.table({"image": ["x"]}), tmp_path / "text.parquet")
    with pytest.raises(DataError, match="is string, not binary"):
        open_source(f"parquet:{tmp_path}/text.parquet", "train").entries()
    pq.write_table(pa.table({"image": [b"x"], "label": [0.5]}), tmp_path / "float.parquet")
    with pytest.raises(DataError, match=r"label 0\.5 is not a whole number"):
        open_source(f"parquet:{tmp_path}/float.parquet", "train").entries()
    (tmp_path / "not.parquet").write_bytes(b"no Parquet at all")
    with pytest.raises(DataError, match="not readable as Parquet"):
        open_source(f"parquet:{tmp_path}/not.parquet", "train").entries()
    write(tmp_path / "names.parquet", rows(3), [0, 1, 2], names=["a", "b"])
    with pytest.raises(DataError, match="label 2 is not among the 2 classes"):
        open_source(f"parquet:{tmp_path}/names.parquet", "train").entries()


def test_a_damaged_parquet_file_is_named(tmp_path):
    images = [{"bytes": np.random.default_rng(i).bytes(5000), "path": f"{i}"} for i in range(20)]
    path = write(tmp_path / "damaged.parquet", images)
    source = open_source(f"parquet:{path}", "train")
    entries = source.entries()
    content = bytearray(path.read_bytes())
    column = pq.read_metadata(path).row_group(0).column(0)
    start = column.dictionary_page_offset or column.data_page_offset
    content[start : start + 64] = b"\xff" * 64  # the page's header
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"damaged\.parquet, row group 0 is damaged"):
        list(pickle.loads(pickle.dumps(source)).read(entries))


def test_a_row_group_is_streamed_not_loaded(tmp_path):
    rng = np.random.default_rng(0)
    # 48 MB in one row group of 12 pages.
    images = [{"bytes": rng.bytes(4_000), "path": f"{i:05d}"} for i in range(12_000)]
    source = open_source(f"parquet:{write(tmp_path / 'large.parquet', images)}", "train")
    entries = source.entries()
    before, most = pa.total_allocated_bytes(), 0
    for image, data in zip(images, source.read(entries), strict=True):
        assert data == image["bytes"]
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < 16e6


# torchvision


def test_torchvision_names_and_options_are_checked():
    with pytest.raises(ConfigError, match="'CIFAR11' is not known; known are CIFAR10"):
        open_source("torchvision:CIFAR11", "train")
    with pytest.raises(ConfigError, match="option 'rot' is not known"):
        open_source("torchvision:CIFAR10?rot=x", "train")


class ClassFolders:
    """A stand-in for torchvision's DatasetFolder, because the real package takes long to import."""

    def __init__(self, root):
        if not os.path.isdir(root):
            raise RuntimeError("Dataset not found.")
        self.root, self.classes = root, sorted(os.listdir(root))
        self.samples = [
            (os.path.join(root, name, file), label)
            for label, name in enumerate(self.classes)
            for file in os.listdir(os.path.join(root, name))
        ]


@pytest.fixture
def datasets(monkeypatch):
    torchvision, datasets = ModuleType("torchvision"), ModuleType("torchvision.datasets")
    torchvision.datasets, datasets.DatasetFolder = datasets, ClassFolders
    monkeypatch.setitem(sys.modules, "torchvision", torchvision)
    return datasets


def test_a_torchvision_set_that_is_not_there(tmp_path, monkeypatch, datasets):
    class Offline:
        def __init__(self, root, train, download=False):
            raise OSError("no network") if download else RuntimeError("Dataset not found.")

    datasets.CIFAR10 = Offline
    datasets.ImageNet = lambda root, split: ClassFolders(os.path.join(root, split))
    with pytest.raises(DataError, match="can't be downloaded: put them into"):
        open_source(f"torchvision:ImageNet?root={tmp_path}", "train").entries()
    monkeypatch.setenv("KNOWLEDGE_TRANSFER_DATA", str(tmp_path))
    says = rf"no copy in {tmp_path}/CIFAR10, and downloading one failed.*no network"
    with pytest.raises(DataError, match=says):
        open_source("torchvision:CIFAR10", "test").entries()


def test_a_torchvision_set_of_arrays(datasets):
    class Arrays:
        classes = ("zero", "one")

        def __init__(self, root, split):
            self.labels = [-1] * 5 if split == "unlabeled" else [1, 0, 1]

        def __getitem__(self, row):
            return Image.new("L", (3, 2), 10 * row), self.labels[row]

    datasets.STL10 = Arrays
    train = open_source("torchvision:STL10", "train")
    assert [(entry.uri, entry.label) for entry in train.entries()] == [
        ("STL10/train/000000", 1),
        ("STL10/train/000001", 0),
        ("STL10/train/000002", 1),
    ]
    assert train.classes == ("zero", "one")
    assert not train.parallel
    assert [pixels[1, 2].tolist() for pixels in train.read(train.entries())] == [[0] * 3, [10] * 3, [20] * 3]
    more = open_source("torchvision:STL10", "unlabelled")
    assert len(more.entries()) == 5
    assert more.classes is None
    assert {entry.label for entry in more.entries()} == {None}


def test_a_torchvision_set_of_files(tmp_path, datasets):
    datasets.Imagenette = lambda root, split: ClassFolders(os.path.join(root, split))
    put(tmp_path, "Imagenette/val/n2/x.png", png(5))
    put(tmp_path, "Imagenette/val/n1/y.png", png(6))
    files = open_source(f"torchvision:Imagenette?root={tmp_path}", "test")
    assert [(entry.uri, entry.label) for entry in files.entries()] == [("n1/y.png", 0), ("n2/x.png", 1)]
    assert files.classes == ("n1", "n2")
    assert files.parallel
    pickled = pickle.dumps(files)
    assert b"y.png" not in pickled  # workers get the entries, not the list of all
    assert list(pickle.loads(pickled).read(files.entries())) == [png(6), png(5)]


@pytest.mark.slow
def test_torchvision_has_the_names_and_arguments():
    import torchvision

    for name, splits in DATASETS.items():
        parameters = inspect.signature(getattr(torchvision.datasets, name).__init__).parameters
        for selection in splits.values():
            assert set(selection) <= set(parameters), name
        assert "download" in parameters or name == "ImageNet"
