"""The example of an external source, MNIST's format, is listed and read like our own sources."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from installed import as_installed, python

from data.errors import DataError

RUN = """
import json, sys
from pathlib import Path
import numpy as np
from data.images import open_images
from data.manifest import make_manifest
from data.sources import open_source

spec = f"idx:{sys.argv[1]}"
made = make_manifest(spec, spec, None, seed=0, max_rejected=0)
table = made.images
images = open_images(table, {"train": spec, "test": spec}, 8, cache=Path(sys.argv[2]), whole=True)
pixels = images.read(np.arange(len(table)))
print(json.dumps({
    "counts": made.counts, "classes": made.classes, "labels": table["label"].to_pylist(),
    "sums": pixels.astype(int).sum((1, 2, 3)).tolist(),
}))
"""


def write_idx(path: Path, array: np.ndarray) -> None:
    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    content = head + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.fixture
def digits(tmp_path: Path) -> tuple[Path, np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    images, labels = (16 * load_digits().images[:30] - 1).clip(0), load_digits().target[:30]
    folder = tmp_path / "mnist"
    folder.mkdir()
    write_idx(folder / "train-images-idx3-ubyte.gz", images[:20])
    write_idx(folder / "train-labels-idx1-ubyte.gz", labels[:20])
    write_idx(folder / "t10k-images-idx3-ubyte", images[20:])
    write_idx(folder / "t10k-labels-idx1-ubyte", labels[20:])
    return folder, images.astype(np.uint8), labels


def test_images_labels_and_splits_are_those_of_the_files(
    digits: tuple[Path, np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    folder, images, labels = digits
    said = json.loads(
        python(RUN, as_installed("idx-images", tmp_path), str(folder), str(tmp_path / "cache")).splitlines()[
            -1
        ]
    )
    assert (said["counts"]["train"], said["counts"]["test"]) == (20, 10)
    assert [int(said["classes"][label]) for label in said["labels"]] == labels.tolist()
    assert said["sums"] == (3 * images.astype(int).sum((1, 2))).tolist()


def test_it_is_listed_and_a_wrong_place_is_one_line(tmp_path: Path) -> None:
    environment = as_installed("idx-images", tmp_path)
    assert "idx:PATH            a folder with MNIST's IDX files" in python(
        "from flows.__main__ import main; main(['list'])", environment
    )
    code = (
        "from data.errors import UserError\nfrom data.sources import open_source\n"
        "for spec in ('idx:', 'idx:/nowhere', 'idy:x'):\n"
        "    try:\n        open_source(spec, 'train').entries()\n"
        "    except UserError as error:\n        print(error)"
    )
    empty, nowhere, unknown = python(code, environment).splitlines()
    assert "write idx:PATH" in empty
    assert "give the folder that holds MNIST's files" in nowhere
    assert "idx:PATH" in unknown


def test_damaged_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from conftest import ROOT

    monkeypatch.syspath_prepend(ROOT / "examples" / "idx-images")
    from idx_images import read_idx

    whole, cut, other = (tmp_path / name for name in ("whole", "cut", "other"))
    write_idx(whole, np.arange(24).reshape(2, 3, 4))
    assert np.array_equal(read_idx(whole), np.arange(24).reshape(2, 3, 4))
    cut.write_bytes(whole.read_bytes()[:-1])
    other.write_bytes(b"PK\3\4 no")
    for path, said in ((cut, "23 values, not 24"), (other, "no IDX file")):
        with pytest.raises(DataError, match=said):
            read_idx(path)
