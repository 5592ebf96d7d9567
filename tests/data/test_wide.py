"""Values of more than 8 bits, other bands, HEIC and large images."""

import io
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import pytest
from image_files import encoded, four_bands, photo, png16
from PIL import Image, ImageOps

from data import decode as module
from data import wide
from data.decode import content_sha256, decode, decode_then, measure, resize_square, resize_within
from data.errors import DataError
from data.reading import Reading
from data.spread import alone, spread
from data.value_range import Values, settle
from data.wide import LEVELS, NeedsLibrary, clipped, robust_range, scale


def closed_form(values, low, high):
    return np.rint(np.clip((values.astype(float) - low) * (255 / (high - low)), 0, 255)).astype(np.uint8)


def deep(channels, seed=0, high=4096, shape=(21, 34)):
    return np.random.default_rng(seed).integers(0, high, (*shape, channels)).astype(np.uint16)


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


# Images of 8 bits


def pattern(bands):
    y, x = np.mgrid[0:23, 0:37]
    every = [x * 7 + y * 3, x * 5 + y * 11, x + y * 2, x * 13 + y]
    return np.stack([band % 256 for band in every[:bands]], -1).astype(np.uint8)


def ordinary():
    rgb, rgba, la = (Image.fromarray(pattern(n), mode) for n, mode in ((3, "RGB"), (4, "RGBA"), (2, "LA")))
    grey = Image.fromarray(pattern(1)[..., 0])
    palette = Image.new("P", grey.size)
    palette.putdata((pattern(1)[..., 0] % 16).ravel().tolist())
    palette.putpalette([i * 5 for i in range(48)])
    yield from ((encoded(rgb, name), "2e9ff95d1148") for name in ("PNG", "TIFF", "BMP", "TGA", "PPM", "QOI"))
    yield from ((encoded(rgba, name), "43ed74d2b152") for name in ("PNG", "TGA", "QOI"))
    yield from ((encoded(grey, name), "e9e21ee0da61") for name in ("PNG", "TIFF", "BMP", "PPM"))
    yield from ((encoded(la, name), "999bbb662034") for name in ("PNG",))
    yield from ((encoded(palette, name), "656b65ae2fb6") for name in ("PNG", "TIFF", "GIF"))
    yield encoded(palette, transparency=3), "36745e422d0d"
    yield encoded(grey, transparency=9), "d505f85cbb2b"
    yield encoded(Image.fromarray(pattern(4), "CMYK"), "TIFF"), "98675ffedde4"
    yield encoded(rgba, "WEBP", lossless=True, exact=True), "43ed74d2b152"
    yield encoded(rgba, exif=exif(5)), "15362e5350ef"
    yield encoded(rgb, "TIFF", exif=exif(7)), "ac50146fb35f"
    yield encoded(Image.fromarray(np.tile(pattern(4), (60, 40, 1)), "RGBA")), "2638ab93f83a"


def test_images_of_8_bits_keep_the_pixels_they_had_before_there_were_readings():
    for data, known in ordinary():
        assert content_sha256(decode(data))[:12] == known
        assert measure(data)[2:] == (None, None, None)
        assert measure(data)[:2] == decode(data).shape[1::-1]


def test_strips_give_the_same_as_the_whole(monkeypatch):
    whole = [decode(data) for data, _ in ordinary()] + [decode(png16(deep(4)))]
    monkeypatch.setattr(wide, "_STRIP", 100)
    strips = [decode(data) for data, _ in ordinary()] + [decode(png16(deep(4)))]
    assert all((a == b).all() for a, b in zip(whole, strips, strict=True))


# Wide values


@pytest.mark.parametrize("range_", [(0.0, 65535.0), (0.0, 4095.0), (512.0, 600.0), (-3.5, 9000.25)])
def test_the_scale_is_linear_rounded_and_clipped(range_):
    values = np.arange(65536, dtype=np.uint16)
    assert (scale(values, *range_) == closed_form(values, *range_)).all()
    signed = np.arange(-32768, 32768).astype(np.int16)
    assert (scale(signed, *range_) == closed_form(signed, *range_)).all()
    assert (scale(signed.astype(np.float32), *range_) == scale(signed, *range_)).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_every_bit_of_a_16_bit_png_counts(channels):
    values = deep(channels, high=64) + np.uint16(256)  # one value of the high byte
    reading = Reading(value_range=(256.0, 319.0))
    expected = closed_form(values, 256, 319)
    assert (decode(png16(values), reading) == expected).all()
    assert len(np.unique(decode(png16(values), reading))) == 64
    assert len(np.unique(decode(png16(values)))) == 1
    assert measure(png16(values))[:3] == (34, 21, "uint16")


def test_16_bit_transparency_lies_on_white():
    for channels in (2, 4):
        values = deep(channels, high=65536)
        values[..., -1] = 0
        assert (decode(png16(values)) == 255).all()
        values[..., -1] = 65535
        assert (decode(png16(values)) == closed_form(values[..., :-1], 0, 65535)).all()


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"tile": (16, 16)}, {"byteorder": ">"}])
def test_every_bit_of_a_16_bit_tiff_counts(options):
    tifffile = pytest.importorskip("tifffile")
    for predictor in (False, True) if "compression" in options else (False,):
        values = deep(3)
        file = io.BytesIO()
        tifffile.imwrite(file, values, photometric="rgb", predictor=predictor, **options)
        reading = Reading(value_range=(0.0, 4095.0))
        assert (decode(file.getvalue(), reading) == closed_form(values, 0, 4095)).all()


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "uint32", "float32", "float64"])
def test_signed_float_and_32_bit_values(dtype):
    tifffile = pytest.importorskip("tifffile")
    values = np.linspace(-100, 100, 21 * 34).reshape(21, 34)
    values = (values + 3e9 if dtype == "uint32" else values).astype(dtype)
    file = io.BytesIO()
    tifffile.imwrite(file, values)
    low, high = float(values.min()), float(values.max())
    pixels = decode(file.getvalue(), Reading(value_range=(low, high)))
    assert (pixels == closed_form(values, low, high)[..., None]).all()
    found = measure(file.getvalue())
    assert found.kind == dtype
    assert (found.quantiles[0], found.quantiles[-1]) == (low, high)


def test_a_file_is_never_stretched_by_its_own_values():
    dark, light = (np.full((4, 4), value, np.float32) + np.eye(4, dtype=np.float32) for value in (10, 90))
    reading = Reading(value_range=(0.0, 100.0))
    assert decode(encoded(Image.fromarray(dark), "TIFF"), reading).max() < 50
    assert decode(encoded(Image.fromarray(light), "TIFF"), reading).min() > 200
    with pytest.raises(DataError, match=r"float32 values of no known range; set data\.value_range"):
        decode(encoded(Image.fromarray(dark), "TIFF"))
    for bad in (np.nan, np.inf):
        dark[1, 2] = bad
        for read in (measure, lambda data: decode(data, reading)):
            with pytest.raises(DataError, match="not finite"):
                read(encoded(Image.fromarray(dark), "TIFF"))


# The scale of a set


def sketch_of(*images):
    return np.stack([measure(encoded(Image.fromarray(image))).quantiles for image in images])


def test_the_scale_leaves_out_a_few_hot_pixels_and_is_rounded_outwards():
    draws = np.random.default_rng(0)
    images = [draws.integers(305, 4052, (200, 300)).astype(np.uint16) for _ in range(5)]
    assert robust_range(sketch_of(*images), (0, 65535)) == (300, 4050)
    for image in images:
        image[0, :20] = 65535
    assert robust_range(sketch_of(*images), (0, 65535)) == (300, 4050)
    share, count = clipped(sketch_of(*images), 300, 4050)
    assert count == 5
    exact = np.mean([(image < 300) | (image > 4050) for image in images])
    assert share == pytest.approx(exact, rel=0.5)  # the levels are a factor of 1.5 apart
    assert clipped(sketch_of(*images), 0, 65535) == (0, 0)


def test_quantiles_of_a_set_are_those_of_all_its_values():
    draws = np.random.default_rng(1)
    images = [np.clip(draws.normal(1000 * i, 50 * i, (150, 200)), 0, 65535).astype(np.uint16) for i in (2, 5)]
    low, high = np.quantile(np.concatenate([image.ravel() for image in images]), [wide.TAIL, 1 - wide.TAIL])
    found = [wide._quantile(sketch_of(*images), level) for level in (wide.TAIL, 1 - wide.TAIL)]
    assert found == pytest.approx([low, high], rel=0.01)


def test_a_set_of_one_value_has_a_scale():
    low, high = robust_range(sketch_of(np.full((5, 5), 700, np.uint16)), (0, 65535))
    assert low <= 700 < high


@pytest.mark.parametrize("width", [1e-9, 0.3, 7.0, 12345.6, 1e12])
def test_floats_of_any_size_have_a_scale_that_holds_them(width):
    low, high = robust_range((0.1 * width + width * LEVELS)[None], None)
    assert low <= (0.1 + wide.TAIL) * width * (1 + 1e-9)
    assert (1.1 - wide.TAIL) * width <= high * (1 + 1e-9)
    assert high - low < 1.2 * width


def values_of(image):
    found = measure(encoded(Image.fromarray(image)))
    return Values(found.kind, b"" if found.quantiles is None else found.quantiles.tobytes())


def test_test_images_do_not_decide_the_scale():
    dark, light = (np.full((9, 9), value, np.uint16) + np.arange(9, dtype=np.uint16) for value in (100, 9000))
    plain = Values(None, b"")
    alone_ = settle([values_of(dark), plain], [], Reading())
    both = settle([values_of(dark), plain], [values_of(light)], Reading())
    assert alone_.recorded["value_range"] == both.recorded["value_range"]
    assert both.recorded["clipped"] == {"share": 0.5, "images": 1}
    assert both.recorded["channels"] == 3
    text = " ".join(both.notes)
    assert "2 of 3 images have wide values (uint16)" in text
    assert "less than a tenth of their range: 100 to 108 of 0 to 65535" in text
    assert "about 50.00% of the values of wide images, in 1 image, are outside" in text
    assert "1 image has 8 bits per value; it is read as it is" in text


def test_wide_test_images_of_an_8_bit_set_are_scaled_by_their_type():
    plain, image = Values(None, b""), np.full((9, 9), 500, np.uint16)
    assert settle([plain], [values_of(image)], Reading()).reading.value_range == (0, 65535)
    floats = measure(encoded(Image.fromarray(image.astype(np.float32)), "TIFF"))
    with pytest.raises(DataError, match=r"test images have float32 values.*data\.value_range"):
        settle([plain], [Values(floats.kind, floats.quantiles.tobytes())], Reading())


def test_a_set_of_8_bits_records_nothing_whatever_scale_is_given():
    settled = settle([Values(None, b"")], [Values(None, b"")], Reading(value_range=(0.0, 10.0)))
    assert (settled.recorded, settled.notes, settled.reading) == ({}, [], Reading())


# Bands


@pytest.mark.parametrize("options", [{}, {"compression": "tiff_lzw"}, {"compression": "tiff_deflate"}])
def test_a_fourth_band_is_not_transparency(options):
    data = four_bands(pattern(4), **options)
    with pytest.raises(DataError, match=r"^it has 4 bands; choose three with data\.bands=1,2,3$"):
        decode(data)
    with pytest.raises(DataError, match="it has 4 bands"):
        measure(data)
    assert (decode(data, Reading(bands=(1, 2, 3))) == pattern(3)).all()
    assert (decode(data, Reading(bands=(4, 1, 2))) == pattern(4)[..., [3, 0, 1]]).all()
    assert (decode(data, Reading(bands=(4,))) == pattern(4)[..., [3, 3, 3]]).all()
    assert measure(data, Reading(bands=(4, 1, 2)))[:4] == (37, 23, None, None)
    with pytest.raises(DataError, match=r"it has 4 bands, but data\.bands asks for band 5"):
        decode(data, Reading(bands=(1, 2, 5)))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("bands", [2, 4])
def test_a_tiffs_transparency_is_believed_only_if_it_looks_like_one(dtype, bands):
    tifffile = pytest.importorskip("tifffile")
    greatest = np.iinfo(dtype).max

    def written(alpha):
        values = deep(bands, high=256).astype(dtype)
        values[..., -1] = alpha
        file = io.BytesIO()
        kind = "rgb" if bands == 4 else "minisblack"
        tifffile.imwrite(file, values, photometric=kind, extrasamples=["unassalpha"], planarconfig="contig")
        return file.getvalue(), values

    shape = (21, 34)
    infrared = np.random.default_rng(3).integers(0, greatest, shape)
    data, values = written(infrared)
    for read in (measure, decode):
        with pytest.raises(
            DataError, match=f"it has {bands} bands, and the last is declared .* like an image"
        ):
            read(data)
    reading = Reading(bands=(bands,), value_range=(0.0, float(greatest)))
    assert (decode(data, reading) == closed_form(infrared, 0, greatest)[..., None]).all()
    data, values = written(np.where(np.arange(34) < 20, greatest, 0))
    pixels = decode(data)
    assert (pixels[:, :20] == closed_form(values[:, :20, :-1], 0, greatest)).all()
    assert (pixels[:, 20:] == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("wide_", [False, True])
def test_bands_are_turned_upright(orientation, wide_):
    if wide_:
        tifffile = pytest.importorskip("tifffile")
        file = io.BytesIO()
        tag = [(274, 3, 1, orientation, True)]
        values = pattern(4).astype(np.uint16)
        tifffile.imwrite(file, values, photometric="rgb", extrasamples=["unspecified"], extratags=tag)
        data = file.getvalue()
    else:
        data = four_bands(pattern(4), exif=exif(orientation))
    upright = ImageOps.exif_transpose(
        Image.open(io.BytesIO(encoded(Image.fromarray(pattern(3)), exif=exif(orientation))))
    )
    reading = Reading(bands=(1, 2, 3), value_range=(0.0, 255.0))
    assert (decode(data, reading) == np.asarray(upright)).all()
    assert measure(data, reading)[:2] == upright.size


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(
    ("bands", "planar"), [(2, "contig"), (4, "separate"), (5, "contig"), (7, "separate")]
)
def test_any_number_of_bands_is_read_with_tifffile(dtype, bands, planar, monkeypatch):
    tifffile = pytest.importorskip("tifffile")
    values = deep(bands, high=256).astype(dtype)
    file = io.BytesIO()
    given = np.moveaxis(values, -1, 0) if planar == "separate" else values
    kind = {"photometric": "rgb", "extrasamples": [0]} if bands == 4 else {"photometric": "minisblack"}
    tifffile.imwrite(file, given, planarconfig=planar, **kind)
    data = file.getvalue()
    with pytest.raises(DataError, match=f"it has {bands} bands; choose"):
        decode(data)
    reading = Reading(bands=(bands, 1, 2), value_range=(0.0, 255.0))
    assert (decode(data, reading) == values[..., [bands - 1, 0, 1]]).all()
    monkeypatch.setitem(sys.modules, "tifffile", None)
    if (bands, dtype) == (2, np.uint8):  # Pillow can read these
        assert (decode(data, reading) == values[..., [1, 0, 1]]).all()
        return
    with pytest.raises(NeedsLibrary, match=f"it is a TIFF of {bands} bands .*install tifffile"):
        decode(data, reading)


def test_chosen_bands_of_ordinary_images_are_not_blended():
    data = encoded(Image.fromarray(pattern(4), "RGBA"))
    assert (decode(data, Reading(bands=(1, 2, 3))) == pattern(3)).all()
    assert (decode(data, Reading(bands=(4, 4, 1))) == pattern(4)[..., [3, 3, 0]]).all()
    jpeg = encoded(Image.fromarray(photo()), "JPEG")
    assert (decode(jpeg, Reading(bands=(3, 2, 1))) == decode(jpeg)[..., ::-1]).all()
    assert (decode(pattern(3), Reading(bands=(2,))) == pattern(3)[..., [1, 1, 1]]).all()
    with pytest.raises(DataError, match="it has 1 band, but"):
        decode(encoded(Image.fromarray(pattern(1)[..., 0])), Reading(bands=(1, 2, 3)))


def test_resizing_keeps_other_numbers_of_bands():
    reading = Reading(bands=(1, 2, 3, 4))
    pixels = decode(four_bands(pattern(4)), reading)
    assert reading.channels == 4
    assert (pixels == pattern(4)).all()
    for resize in (resize_square, resize_within):
        assert (resize(pixels, 16)[..., :3] == resize(pattern(3), 16)).all()
        assert resize(pixels, 16).shape == (16, 16, 4)


# HEIC


def test_heic_is_named_where_it_cannot_be_read(monkeypatch):
    monkeypatch.setattr(module, "_heif_installed", lambda: False)
    for brand in (b"heic", b"heix", b"mif1"):
        header = b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0" + brand + b"mif1" + bytes(100)
        with pytest.raises(
            NeedsLibrary, match="it is HEIC, as iPhones write it; install pillow-heif to read it"
        ):
            decode(header)


def test_heic_is_read_where_pillow_heif_is_installed():
    heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    heif.from_pillow(Image.fromarray(photo(64, 96))).save(file, quality=95)
    pixels = decode(file.getvalue())
    assert (pixels == np.asarray(heif.open_heif(file).to_pillow())).all()
    with pytest.raises(DataError, match=r"HEIC|can't be decoded|cut off"):
        decode(file.getvalue()[:200])


# Large images


def test_the_limit_on_pixels_is_a_setting():
    data = encoded(Image.fromarray(photo(20, 30)))
    for read in (measure, decode):
        assert read(data, Reading(max_pixels=600)) is not None
        with pytest.raises(
            DataError, match=r"600 pixels, more than the 599 that are allowed; data\.max_pixels"
        ):
            read(data, Reading(max_pixels=599))
    jpeg = encoded(Image.fromarray(photo(20, 30)), "JPEG")
    with pytest.raises(DataError, match="more than the 599"):
        decode(jpeg, Reading(max_pixels=599))
    huge = encoded(Image.new("1", (30_000, 6_001)))  # above twice the limit, Pillow refuses it
    with pytest.raises(DataError, match="too many pixels"):
        measure(huge)
    limit = Image.MAX_IMAGE_PIXELS
    assert measure(huge, Reading(max_pixels=200_000_000))[:2] == (30_000, 6_001)
    assert limit == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize(
    ("kind", "bytes_per_pixel"), [("rgba", 8), ("palette", 8), ("grey16", 8), ("rgb16", 12)]
)
def test_memory_stays_within_the_bound(tmp_path, kind, bytes_per_pixel):
    side = 4000
    if kind == "rgb16":
        data = png16(np.full((side, side, 3), 777, np.uint16))
    elif kind == "grey16":
        data = encoded(Image.fromarray(np.full((side, side), 777, np.uint16)))
    else:
        image = Image.new("RGBA" if kind == "rgba" else "P", (side, side))
        data = encoded(image, **({} if kind == "rgba" else {"transparency": 0}))
    assert len(data) < 500_000
    (tmp_path / "image").write_bytes(data)
    code = (
        "import resource, sys\n"
        "from data.decode import decode_then, resize_square\n"
        "from data.reading import Reading\n"
        "def peak(): return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "data = open(sys.argv[1], 'rb').read(); before = peak()\n"
        "decode_then(data, Reading(), lambda pixels: resize_square(pixels, 64)); print(peak() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "image"], capture_output=True, text=True, check=True
    )
    extra = 48 << 20  # the interpreter's own buffers, and strips
    assert int(done.stdout) < bytes_per_pixel * side * side + extra


def test_a_large_image_is_decoded_and_made_smaller_in_its_turn(monkeypatch):
    held = []

    @contextmanager
    def turn():
        held.append("begin")
        try:
            yield
        finally:
            held.append("end")

    def then(pixels):
        held.append("then")
        return pixels

    monkeypatch.setattr(module, "alone", turn)
    monkeypatch.setattr(module, "LARGE", 20 * 30)
    for height, expected in ((20, ["then"]), (21, ["begin", "then", "end"])):
        for format in ("PNG", "JPEG"):
            held.clear()
            decode_then(encoded(Image.fromarray(photo(height, 30)), format), Reading(), then)
            assert held == expected
    held.clear()
    with pytest.raises(DataError):
        decode(encoded(Image.fromarray(photo(60, 80)), "JPEG")[:900])
    assert held.count("begin") == held.count("end") > 0


def _hold(number):
    with alone():
        began = time.monotonic()
        time.sleep(0.05)
        return os.getpid(), began, time.monotonic()


def test_the_workers_of_a_pool_take_turns():
    held = sorted(spread(_hold, range(12), 2), key=lambda each: each[1])
    assert all(first[2] <= second[1] for first, second in pairwise(held))
