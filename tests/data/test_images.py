"""Packed and streamed images give the same pixels, and changed images and full disks are noticed."""

import errno
import os
import pickle

import numpy as np
import pyarrow as pa
import pytest
from image_files import encoded, four_bands, photo
from PIL import Image

from data import images as module
from data.decode import content_sha256, decode, resize_square
from data.errors import DataError, StoreError
from data.images import PackedImages, StreamedImages, open_images, reading_of
from data.manifest import make_manifest
from data.packs import Shape
from data.reading import Reading


@pytest.fixture
def folder(tmp_path):
    for name in range(12):
        path = tmp_path / f"images/{'ab'[name % 2]}/{name:02d}.{'jpg' if name % 3 else 'png'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(Image.fromarray(photo(20 + name, 30, name)), "JPEG" if name % 3 else "PNG"))
    return tmp_path / "images"


def listed(train, test=None, **options):
    return make_manifest(train, test, None, seed=0, max_rejected=0.5, hold_out=False, **options).images


def expected(manifest, read, size):
    return np.stack([resize_square(decode(read(uri)), size) for uri in manifest["uri"].to_pylist()])


@pytest.mark.parametrize("limit", [8 << 30, 0])
def test_pixels_by_index_packed_and_streamed(folder, tmp_path, limit):
    spec = f"folder:{folder}"
    manifest = listed(spec)
    images = open_images(manifest, {"train": spec}, 16, tmp_path / "cache", limit_bytes=limit)
    assert isinstance(images, StreamedImages if limit == 0 else PackedImages)
    assert (len(images), images.size) == (12, 16)
    wanted = expected(manifest, lambda uri: (folder / uri).read_bytes(), 16)
    index = np.array([7, 0, 11, 7, 3])
    for opened in (images, pickle.loads(pickle.dumps(images))):
        assert (opened.read(index) == wanted[index]).all()
        assert opened.read(index).dtype == np.uint8
        assert opened.read(np.array([], np.int64)).shape == (0, 16, 16, 3)
    for outside in (-1, 12):
        with pytest.raises(IndexError, match="of 0 to 11"):
            images.read(np.array([0, outside]))


def test_a_copy_that_was_read_may_be_written_to(folder, tmp_path):
    spec = f"folder:{folder}"
    images = open_images(listed(spec), {"train": spec}, 8, tmp_path / "cache")
    first = images.read(np.arange(12))
    first[:] = 0
    assert images.read(np.arange(12)).any()


def test_packed_pixels_are_named_by_content(folder, tmp_path):
    spec = f"folder:{folder}"
    manifest = listed(spec)
    cache = tmp_path / "cache"
    images = open_images(manifest, {"train": spec}, 8, cache)
    assert sorted(path.suffix for path in cache.iterdir()) == [".npy", ".sha"]
    moved = folder.rename(tmp_path / "elsewhere")  # nothing is read again, so the images may be gone
    again = open_images(manifest, {"train": f"folder:{moved}/gone"}, 8, cache)
    assert (again.read(np.arange(12)) == images.read(np.arange(12))).all()
    assert open_images(manifest, {"train": f"folder:{moved}"}, 9, cache).size == 9


@pytest.mark.parametrize("limit", [8 << 30, 0])
def test_parquet_in_two_splits(tmp_path, limit):
    import pyarrow.parquet as pq

    content = {f"{i * 7 % 20:02d}.png": encoded(Image.fromarray(photo(seed=i))) for i in range(20)}
    rows = [{"bytes": data, "path": uri} for uri, data in content.items()]
    for name, part in (("train", rows[:12]), ("test", rows[12:])):
        pq.write_table(pa.table({"image": part}), tmp_path / f"{name}.parquet", row_group_size=5)
    specs = {name: f"parquet:{tmp_path}/{name}.parquet" for name in ("train", "test")}
    manifest = listed(specs["train"], specs["test"])
    images = open_images(manifest, specs, 16, tmp_path / "cache", limit_bytes=limit)
    assert (images.read(np.arange(20)[::-1]) == expected(manifest, content.get, 16)[::-1]).all()
    assert len(list((tmp_path / "cache").iterdir())) == (2 if limit else 1)


def test_a_damaged_copy_of_a_source_is_made_again(tmp_path):
    """Any byte of the copy: of an image, of the table of their places, or of their number."""
    import pyarrow.parquet as pq

    content = {f"{i}.png": encoded(Image.fromarray(photo(seed=i))) for i in range(3)}
    rows = [{"bytes": data, "path": uri} for uri, data in content.items()]
    pq.write_table(pa.table({"image": rows}), tmp_path / "train.parquet")
    spec = f"parquet:{tmp_path}/train.parquet"
    manifest = listed(spec)
    wanted = expected(manifest, content.get, 8)

    def read():
        return open_images(manifest, {"train": spec}, 8, tmp_path / "cache", limit_bytes=0).read(np.arange(3))

    assert (read() == wanted).all()
    (copy,) = (tmp_path / "cache").iterdir()
    whole = copy.read_bytes()
    numbers = range(len(whole) - 7 * 8, len(whole))  # offset and size of three images, and their number
    for at in (50, *numbers):
        for bit in (1, 128):
            copy.write_bytes(whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :])
            try:
                assert (read() == wanted).all()
            except DataError as error:
                assert f"{copy} is not what was written" in str(error)  # noqa: PT017
                assert (read() == wanted).all()
            assert copy.read_bytes() == whole


def test_held_out_images_lie_in_the_train_source(tmp_path):
    manifest = make_manifest("digits", None, None, seed=0, max_rejected=0).images
    assert set(manifest["split"].to_pylist()) == {"train", "test"}
    images = open_images(manifest, {"train": "digits"}, 8, tmp_path)
    hashes = [content_sha256(pixels) for pixels in images.read(np.arange(len(images)))]
    assert hashes == manifest["sha256"].to_pylist()


@pytest.mark.parametrize("limit", [8 << 30, 0])
@pytest.mark.parametrize("change", ["other", "gone", "broken"])
def test_an_image_that_changed_is_named(folder, tmp_path, limit, change):
    spec = f"folder:{folder}"
    manifest = listed(spec)
    victim = folder / "a/02.jpg"
    if change == "gone":
        victim.unlink()
    else:
        victim.write_bytes(
            (folder / "a/04.jpg").read_bytes() if change == "other" else victim.read_bytes()[:300]
        )
    with pytest.raises(DataError, match=r"a/02\.jpg.*run again"):
        open_images(manifest, {"train": spec}, 8, tmp_path / "cache", limit_bytes=limit).read(np.arange(12))
    assert not list((tmp_path / "cache").iterdir())


def test_two_writers_at_once_do_not_disturb_each_other(folder, tmp_path, monkeypatch):
    spec = f"folder:{folder}"
    manifest = listed(spec)
    cache = tmp_path / "cache"
    pack, opened = module._pack, []

    def both(*args):
        monkeypatch.setattr(module, "_pack", pack)
        opened.append(open_images(manifest, {"train": spec}, 8, cache))  # stands in for another process
        pack(*args)

    monkeypatch.setattr(module, "_pack", both)
    opened.append(open_images(manifest, {"train": spec}, 8, cache))
    first, second = (images.read(np.arange(12)) for images in opened)
    assert (first == second).all()
    assert (open_images(manifest, {"train": "folder:gone"}, 8, cache).read(np.arange(12)) == first).all()


def test_no_room_for_pixels_is_said_in_time(folder, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    spec = f"folder:{folder}"
    with pytest.raises(StoreError, match="no room"):
        open_images(listed(spec), {"train": spec}, 8, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_what_killed_processes_left_is_swept(folder, tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    for name, age in (("old.npy.0.part", 2e5), ("new.npy.1.part", 0.0)):
        (cache / name).write_bytes(b"half")
        stamp = (cache / name).stat().st_mtime - age
        os.utime(cache / name, (stamp, stamp))
    spec = f"folder:{folder}"
    open_images(listed(spec), {"train": spec}, 8, cache)
    assert sorted(path.name for path in cache.glob("*.part")) == ["new.npy.1.part"]


def test_worker_processes_give_the_same(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_INLINE", 0)
    spec = f"folder:{folder}"
    manifest = listed(spec)
    progress = []
    packed = open_images(
        manifest, {"train": spec}, 16, tmp_path / "a", workers=2, report=lambda *now: progress.append(now)
    )
    streamed = open_images(manifest, {"train": spec}, 16, tmp_path / "b", workers=2, limit_bytes=0)
    wanted = expected(manifest, lambda uri: (folder / uri).read_bytes(), 16)
    index = np.array([5, 1, 1, 10, 0, 3])
    assert (packed.read(index) == wanted[index]).all()
    assert (streamed.read(index) == wanted[index]).all()
    assert (streamed.read(index[:1]) == wanted[index[:1]]).all()
    streamed.close()
    assert progress[-1] == (12, 12)


@pytest.mark.parametrize("limit", [8 << 30, 0])
def test_wide_values_and_bands_are_read_as_the_manifest_records(tmp_path, limit):
    values = np.random.default_rng(0).integers(0, 256, (6, 9, 9, 4)).astype(np.uint8)
    for number, image in enumerate(values):
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / f"images/{number}.tif").write_bytes(four_bands(image))
    spec = f"folder:{tmp_path / 'images'}"
    for bands in ((4, 1, 2), (1, 2, 3, 4), (2,)):
        reading = Reading(bands=bands)
        manifest = listed(spec, reading=reading)
        images = open_images(
            manifest, {"train": spec}, 9, tmp_path / "cache", limit_bytes=limit, reading=reading
        )
        assert images.channels == reading.channels
        expected = values[..., [band - 1 for band in (bands * 3 if len(bands) == 1 else bands)]]
        assert (images.read(np.arange(6)) == expected).all()
        assert (pickle.loads(pickle.dumps(images)).read(np.array([5, 1])) == expected[[5, 1]]).all()


def test_squares_are_shared_where_they_are_equal(folder, tmp_path):
    readings = (Reading(), Reading(max_pixels=10**9), Reading(bands=(1, 2, 3)), Reading((0.0, 9.0)))
    keys = [Shape(8, reading=reading).key for reading in readings]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3
    assert Shape(8).key != Shape(8, whole=True).key != Shape(9).key
    manifest = listed(f"folder:{folder}")
    assert reading_of(manifest, {}) == Reading()
    assert reading_of(manifest, {"bands": [2], "value_range": [1, 9]}) == Reading((1.0, 9.0), (2,))
