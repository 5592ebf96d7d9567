"""Decoding agrees with Pillow, and images that can't be decoded are refused."""

import csv
import io
from contextlib import ExitStack

import numpy as np
import pytest
from image_files import encoded, photo
from PIL import Image, ImageOps

from data import decode as module
from data.decode import content_sha256, decode, resize_square
from data.errors import DataError
from data.preprocessing import stored_size
from data.reading import MAX_PIXELS, Reading


def jpeg(data, reading=Reading()):  # noqa: B008
    """What simplejpeg gives; None if it leaves the file to Pillow."""
    return module._decode_jpeg(data, reading, ExitStack())


def pillow(data, reading=Reading()):  # noqa: B008
    """What Pillow gives, whatever simplejpeg can do."""
    return module._any(data, reading, ExitStack(), module._pixels_of)


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM", "TGA", "QOI"])
def test_lossless_formats_come_back_exactly(format):
    pixels = decode(encoded(Image.fromarray(photo()), format))
    assert pixels.dtype == np.uint8
    assert (pixels == photo()).all()


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"progressive": True}, {"quality": 30}])
def test_jpeg_is_the_same_from_both_decoders(mode, options):
    data = encoded(Image.fromarray(photo()).convert(mode), "JPEG", **options)
    assert jpeg(data) is not None
    assert (decode(data) == np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))).all()
    assert (decode(data) == pillow(data)).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_orientation_is_applied_as_pillow_does(format, orientation):
    data = encoded(Image.fromarray(photo()), format, exif=exif(orientation))
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert (decode(data) == np.asarray(expected.convert("RGB"))).all()
    assert decode(data).shape[:2] == ((37, 23) if orientation >= 5 else (23, 37))
    if format == "JPEG":
        assert (jpeg(data) == pillow(data)).all()


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
            assert (pixels == pillow(data)).all()
    assert fates == {row["file"]: row["result_with_pillow_13"].startswith("loads") for row in rows}


def test_the_same_photo_in_eight_orientations_is_the_same_photo(odd_images):
    photos = [
        decode(path.read_bytes()).astype(int) for path in sorted(odd_images.glob("exif-*/Portrait_*.jpg"))
    ]
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
    # 30 levels over 8 px: bicubic keeps the ramp smooth, while nearest would make steps of 0 and 30.
    assert steps.min() >= 2
    assert steps.max() <= 5


def test_content_hash_tells_shapes_apart():
    flat = np.zeros((2, 8, 3), np.uint8)
    assert content_sha256(flat) != content_sha256(flat.reshape(4, 4, 3))
    assert content_sha256(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
