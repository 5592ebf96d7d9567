"""Decoding, and pixels by index: against Pillow, against closed forms, and what must never happen."""

import csv
import errno
import io
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageOps

from data import images as module
from data.errors import DataError, StoreError
from data.images import (
    MAX_PIXELS,
    PackedImages,
    StreamedImages,
    content_sha256,
    decode,
    open_images,
    resize_square,
    spread,
    stored_size,
)
from data.manifest import make_manifest


def encoded(image, format="PNG", **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def photo(height=23, width=37, seed=0):
    """Smooth enough for JPEG, different in each corner and channel."""
    y, x = np.mgrid[0:height, 0:width]
    phase = np.random.default_rng(seed).uniform(0, 3, 3)
    return np.stack([127 + 120 * np.sin(x / 9 + y / (5 + i) + phase[i]) for i in range(3)], axis=-1).astype(np.uint8)


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


# decode


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM", "TGA", "QOI"])
def test_lossless_formats_come_back_exactly(format):
    pixels = decode(encoded(Image.fromarray(photo()), format))
    assert pixels.dtype == np.uint8
    assert (pixels == photo()).all()


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"progressive": True}, {"quality": 30}])
def test_jpeg_is_the_same_from_both_decoders(mode, options):
    data = encoded(Image.fromarray(photo()).convert(mode), "JPEG", **options)
    assert module._decode_jpeg(data) is not None
    assert (decode(data) == np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))).all()
    assert (decode(data) == module._decode_any(data)).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_orientation_is_applied_as_pillow_does(format, orientation):
    data = encoded(Image.fromarray(photo()), format, exif=exif(orientation))
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert (decode(data) == np.asarray(expected.convert("RGB"))).all()
    assert decode(data).shape[:2] == ((37, 23) if orientation >= 5 else (23, 37))
    if format == "JPEG":
        assert (module._decode_jpeg(data) == module._decode_any(data)).all()


def test_broken_exif_does_not_cost_the_image():
    data = encoded(Image.fromarray(photo()), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff not TIFF")
    assert (decode(data) == decode(encoded(Image.fromarray(photo()), "JPEG"))).all()


def test_cmyk_is_converted():
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    red = decode(encoded(image, "JPEG", quality=95))
    assert (np.abs(red.astype(int) - [255, 0, 0]) < 4).all()


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_not_clipped(format):
    values = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    pixels = decode(encoded(Image.fromarray(values), format))
    assert (pixels == np.arange(256).reshape(16, 16, 1)).all()


def test_grey_of_no_known_range_is_stretched():
    values = np.linspace(-3.0, 5.0, 256, dtype=np.float32).reshape(16, 16)
    assert (decode(encoded(Image.fromarray(values), "TIFF")) == np.arange(256).reshape(16, 16, 1)).all()
    wide = np.linspace(0, 255_000_000, 256).astype(np.int32).reshape(16, 16)
    assert (decode(encoded(Image.fromarray(wide), "TIFF")) == np.arange(256).reshape(16, 16, 1)).all()
    assert (decode(encoded(Image.fromarray(np.full((2, 2), 7.5, np.float32)), "TIFF")) == 0).all()
    with pytest.raises(DataError, match="not finite"):
        decode(encoded(Image.fromarray(np.full((2, 2), np.nan, np.float32)), "TIFF"))


def test_transparent_parts_lie_on_white():
    image = Image.new("RGBA", (3, 1))
    image.putdata([(255, 0, 0, 255), (255, 0, 0, 0), (0, 0, 0, 128)])
    assert decode(encoded(image)).tolist() == [[[255, 0, 0], [255, 255, 255], [127, 127, 127]]]
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.putdata([0, 1])
    assert decode(encoded(palette)).tolist() == [[[10, 20, 30], [200, 100, 50]]]
    assert decode(encoded(palette, transparency=1)).tolist() == [[[10, 20, 30], [255, 255, 255]]]
    grey = Image.new("L", (2, 1), 9)
    assert decode(encoded(grey, transparency=9)).tolist() == [[[255] * 3] * 2]


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_counts(format):
    frames = [Image.new("RGB", (6, 5), colour) for colour in ("red", "lime", "blue")]
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:], duration=50, lossless=True)
    assert (decode(data) == [255, 0, 0]).all()


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"])
def test_a_cut_off_file_is_refused(format):
    data = encoded(Image.fromarray(photo(60, 80)), format)
    for share in (0.2, 0.5, 0.9):
        with pytest.raises(DataError):
            decode(data[: int(len(data) * share)])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"<html>Not found</html>", "no image"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no image"),
        (b"\xff\xd8\xff\xe0", "no image|can't be decoded|cut off"),
    ],
)
def test_what_is_no_image_gets_a_reason(data, reason):
    with pytest.raises(DataError, match=reason):
        decode(data)


def test_too_many_pixels_are_refused_before_decoding(monkeypatch):
    tall = encoded(Image.new("1", (30_000, MAX_PIXELS // 30_000 + 1)), "PNG")  # a few kB
    assert len(tall) < 100_000
    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
        with pytest.raises(DataError, match="more than the 89,478,485"):
            decode(tall)
    header = bytearray(encoded(Image.fromarray(photo()), "JPEG"))
    frame = header.index(b"\xff\xc0")
    header[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"
    with pytest.raises(DataError, match="decompression bomb"):
        decode(bytes(header))


def test_pixels_pass_through():
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert (decode(grey) == np.stack([grey] * 3, axis=-1)).all()
    assert (decode(photo()) == photo()).all()
    with pytest.raises(DataError, match="float64 of shape"):
        decode(photo().astype(float))


def test_every_odd_image_has_the_fate_that_pillow_gives_it(odd_images):
    with open(odd_images / "MANIFEST.tsv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    fates = {}
    for row in rows:
        data = (odd_images / row["file"]).read_bytes()
        try:
            pixels = decode(data)
        except DataError:
            fates[row["file"]] = False
        else:
            fates[row["file"]] = True
            assert (pixels == module._decode_any(data)).all()
    assert fates == {row["file"]: row["result_with_pillow_13"].startswith("loads") for row in rows}


def test_the_same_photo_in_eight_orientations_is_the_same_photo(odd_images):
    photos = [decode(path.read_bytes()).astype(int) for path in sorted(odd_images.glob("exif-*/Portrait_*.jpg"))]
    assert len(photos) == 8
    for other in photos[1:]:
        assert other.shape == photos[0].shape == (1800, 1200, 3)
        assert np.abs(other - photos[0]).mean() < 3


# resize_square, stored_size, content_sha256


@pytest.mark.parametrize(("size", "stored"), [(8, 8), (32, 32), (63, 63), (64, 73), (96, 110), (224, 256)])
def test_stored_size(size, stored):
    assert stored_size(size) == stored


def test_resize_square_takes_the_centre():
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 200
    assert (resize_square(wide, 10) == 200).all()
    assert (resize_square(wide.transpose(1, 0, 2), 10) == 200).all()
    assert (resize_square(photo(31, 31), 31) == photo(31, 31)).all()


def test_resize_square_is_the_shorter_side_resized_then_the_centre_cropped():
    pixels = photo(80, 160)
    resized = np.asarray(Image.fromarray(pixels).resize((64, 32), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(resize_square(pixels, 32) - resized[:, 16:48]).max() <= 1


def test_resize_square_is_antialiased():
    y, x = np.mgrid[0:256, 0:256]
    checks = np.repeat((255 * ((x + y) % 2)).astype(np.uint8)[..., None], 3, axis=-1)
    assert np.abs(resize_square(checks, 32).astype(int) - 127)[2:-2, 2:-2].max() <= 2


def test_resize_square_enlarges_small_images_smoothly():
    ramp = np.repeat(np.arange(0, 240, 30, dtype=np.uint8)[None, :, None], 8, axis=0).repeat(3, axis=2)
    large = resize_square(ramp, 64)
    assert large.shape == (64, 64, 3)
    steps = np.diff(large[32, 8:-8, 0].astype(int))
    assert steps.min() >= 2  # 30 levels over 8 px: bicubic keeps a ramp a ramp, nearest would make steps of 0 and 30
    assert steps.max() <= 5


def test_content_hash_tells_shapes_apart():
    flat = np.zeros((2, 8, 3), np.uint8)
    assert content_sha256(flat) != content_sha256(flat.reshape(4, 4, 3))
    assert content_sha256(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


# Images


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
    assert [path.name for path in cache.iterdir()] == [images.path.name]
    moved = folder.rename(tmp_path / "elsewhere")  # nothing is read again, so that nothing needs to be there
    assert open_images(manifest, {"train": f"folder:{moved}/gone"}, 8, cache).path == images.path
    assert open_images(manifest, {"train": f"folder:{moved}"}, 9, cache).path != images.path


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
    assert len(list((tmp_path / "cache").iterdir())) == 1


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
        victim.write_bytes((folder / "a/04.jpg").read_bytes() if change == "other" else victim.read_bytes()[:300])
    with pytest.raises(DataError, match=r"a/02\.jpg.*run again"):
        open_images(manifest, {"train": spec}, 8, tmp_path / "cache", limit_bytes=limit).read(np.arange(12))
    assert not list((tmp_path / "cache").iterdir())


def test_a_writer_that_comes_second_adopts(folder, tmp_path, monkeypatch):
    spec = f"folder:{folder}"
    manifest = listed(spec)
    cache = tmp_path / "cache"
    pack, opened = module._pack, []

    def both(*args):
        monkeypatch.setattr(module, "_pack", pack)
        opened.append(open_images(manifest, {"train": spec}, 8, cache))  # another process, meanwhile
        pack(*args)

    monkeypatch.setattr(module, "_pack", both)
    opened.append(open_images(manifest, {"train": spec}, 8, cache))
    first, second = (images.read(np.arange(12)) for images in opened)
    assert (first == second).all()
    assert len(list(cache.iterdir())) == 1


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


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for processes in /proc")
def test_worker_processes_do_not_outlive_a_killed_parent(tmp_path):
    code = (
        "import os, time; from data.images import spread\n"
        "if __name__ == '__main__':\n"
        "    print(*spread(abs, range(2), 2), flush=True)\n"
        "    list(spread(time.sleep, [60.0] * 4, 2))\n"
    )
    script = tmp_path / "parent.py"
    script.write_text(code)
    with subprocess.Popen([sys.executable, script], env={**os.environ, "PYTHONPATH": os.getcwd()}, stdout=-1) as parent:
        assert parent.stdout.readline().split() == [b"0", b"1"]
        deadline = time.monotonic() + 60
        while len(workers := children(parent.pid)) < 2 and time.monotonic() < deadline:
            time.sleep(0.1)
        parent.kill()
    assert len(workers) >= 2
    while any(Path(f"/proc/{worker}").exists() for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)


def children(pid):
    return [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]


def test_spread_keeps_the_order_and_passes_errors_on():
    assert list(spread(abs, range(-5, 0), 0)) == [5, 4, 3, 2, 1]
    with pytest.raises(TypeError):
        list(spread(abs, ["x"], 2))
