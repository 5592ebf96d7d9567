"""One pass over the bytes: the manifest's pass packs the squares, and only new images are decoded later."""

import os

import numpy as np
import pytest
from PIL import Image

from data import files
from data import images as module
from data.decode import decode, resize_square
from data.errors import StoreError
from data.images import open_images
from data.manifest import make_manifest
from data.packs import NONE, Shape, Squares, look, new_pack
from data.reading import Reading


@pytest.fixture
def folder(tmp_path):
    for i in range(10):
        path = tmp_path / "photos" / f"c{i % 2}" / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(i).integers(0, 256, (12, 20, 3), np.uint8)
        Image.fromarray(noise).save(path)
    (tmp_path / "photos/c0/broken.png").write_bytes(b"no image")
    return tmp_path


def make(folder, cache, **options):
    spec = f"folder:{folder}/photos"
    return make_manifest(spec, None, None, seed=0, max_rejected=0.5, packs=cache, shape=Shape(8), **options)


def expected(folder, manifest):
    return np.stack(
        [
            resize_square(decode((folder / "photos" / uri).read_bytes()), 8)
            for uri in manifest["uri"].to_pylist()
        ]
    )


@pytest.fixture
def decoded(monkeypatch):
    """Uris of the images that `open_images` decodes."""
    seen, squares = [], module._squares

    def counting(work):
        seen.extend(entry.uri for entry in work.entries)
        return squares(work)

    monkeypatch.setattr(module, "_squares", counting)
    return seen


@pytest.mark.parametrize("workers", [0, 2])
def test_the_manifests_pass_leaves_nothing_to_decode(folder, tmp_path, decoded, workers, monkeypatch):
    monkeypatch.setattr("data.measured._INLINE", 1)
    made = make(folder, tmp_path / "cache", workers=workers)
    opened = open_images(made.images, {"train": f"folder:{folder}/photos"}, 8, tmp_path / "cache")
    assert (opened.read(np.arange(10)) == expected(folder, made.images)).all()
    assert decoded == []


def test_only_new_images_are_decoded_wherever_they_come_from(folder, tmp_path, decoded):
    cache = tmp_path / "cache"
    first = make(folder, cache)
    for i in range(3):
        noise = np.random.default_rng(100 + i).integers(0, 256, (9, 9, 3), np.uint8)
        Image.fromarray(noise).save(folder / "photos/c1" / f"new{i}.png")
    second = make(folder, cache, known=first.known)
    assert second.counts["read"] == 3
    spec = {"train": f"folder:{folder}/photos"}
    opened = open_images(second.images, spec, 8, cache)
    index = np.random.default_rng(0).integers(0, 13, 40)
    assert (opened.read(index) == expected(folder, second.images)[index]).all()
    assert decoded == []
    for path in sorted(cache.glob("*.sha"))[:1]:
        path.write_bytes(path.read_bytes()[:-7])  # damaged: as if the pack were not there
    assert (open_images(second.images, spec, 8, cache).read(index) == opened.read(index)).all()
    assert len(decoded) in (3, 10)


def test_wide_images_wait_for_their_scale(tmp_path, decoded):
    for i in range(4):
        path = tmp_path / "photos" / f"c{i % 2}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        grey = np.random.default_rng(i).integers(0, 4096, (8, 8), np.uint16)
        Image.fromarray(grey).save(path)
    made = make(tmp_path, tmp_path / "cache")
    reading = Reading(value_range=tuple(made.reading["value_range"]))
    open_images(made.images, {"train": f"folder:{tmp_path}/photos"}, 8, tmp_path / "cache", reading=reading)
    assert len(decoded) == 4


def full(value):
    return np.full((4, 4, 3), value, np.uint8)


def test_a_square_that_can_not_be_written_is_no_damaged_image(folder, tmp_path, monkeypatch):
    def write(self, row, square):
        raise StoreError("no room")

    monkeypatch.setattr("data.packs.Squares.write", write)
    with pytest.raises(StoreError, match="no room"):
        make(folder, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_pack_that_fails_is_not_there_and_empty_rows_match_nothing(tmp_path):
    shape = Shape(4)
    with pytest.raises(RuntimeError), new_pack(tmp_path, shape, 3):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    names = [bytes([i]) * 32 for i in range(1, 6)]
    with new_pack(tmp_path, shape, 3) as (path, hashes):
        with Squares(path) as squares:
            squares.write(2, full(7))
            squares.write(0, full(9).transpose(1, 0, 2))  # not contiguous
        hashes[0], hashes[2] = names[0], names[2]
    found = look(tmp_path, shape, [name.hex() for name in names])
    assert found.file.tolist() == [0, -1, 0, -1, -1]
    assert found.row[[0, 2]].tolist() == [0, 2]
    rows = np.load(found.files[0])
    assert (rows == np.stack([full(9), full(0), full(7)])).all()
    assert found.missing.tolist() == [1, 3, 4]
    assert look(tmp_path, Shape(5), [names[0].hex()]).missing.tolist() == [0]
    assert bytes(32) == NONE


@pytest.mark.parametrize("damage", ["zeros", "truncated", "gone", "index", "from before"])
def test_a_damaged_pack_is_named_deleted_and_made_again(folder, tmp_path, decoded, damage):
    cache = tmp_path / "cache"
    made = make(folder, cache)
    (pack,), (index,) = cache.glob("*.npy"), cache.glob("*.sha")
    status, content, rows = pack.stat(), pack.read_bytes(), index.read_bytes()
    match damage:
        case "zeros":
            pack.write_bytes(content[:200] + bytes(len(content) - 200))
        case "truncated":
            pack.write_bytes(content[:-100])
        case "gone":
            pack.unlink()
        case "index":
            index.write_bytes(rows[:5] + bytes([rows[5] ^ 1]) + rows[6:])
        case "from before":
            index.write_bytes(rows[:-80])
    if pack.exists():
        os.utime(pack, ns=(status.st_atime_ns, status.st_mtime_ns))
    said = []
    spec = {"train": f"folder:{folder}/photos"}
    opened = open_images(made.images, spec, 8, cache, note=said.append)
    assert (opened.read(np.arange(10)) == expected(folder, made.images)).all()
    assert len(decoded) == 10
    (line,) = said
    assert pack.name in line
    assert not index.exists()


def test_a_whole_pack_is_hashed_once(folder, tmp_path, monkeypatch):
    made = make(folder, tmp_path / "cache")
    read, hashed, checked = [], files.file_sha256, files.Checked()
    monkeypatch.setattr(files, "file_sha256", lambda path: read.append(path.suffix) or hashed(path))
    for _ in range(3):
        open_images(made.images, {}, 8, tmp_path / "cache", checked=checked)
    assert read == [".npy"]
