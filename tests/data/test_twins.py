import io
from bisect import bisect_left

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

from data import confirmation, draws, proposals, twins
from data.confirmation import confirm
from data.decode import decode
from data.proposals import difference_hash, propose
from data.spread import Threads
from data.thumbnails import pixel_sha, thumbnail
from data.twins import Twin, groups


def texture(seed, height=64, width=64):
    """A tinted photograph's spectrum: noise at four scales, the coarser the stronger."""
    rng = np.random.default_rng(seed)
    scales = [height / n for n in (32, 16, 8, 4)]
    grey = sum(gaussian_filter(rng.standard_normal((height, width)), s) * s**1.3 for s in scales)
    grey = (grey - grey.mean()) / grey.std()
    tinted = 128 + 45 * grey[..., None] * rng.uniform(0.7, 1, 3) + rng.uniform(-20, 20, 3)
    return np.clip(tinted, 0, 255).astype(np.uint8)


def resized(pixels, height, width):
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))


def jpeg(pixels):
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "JPEG", quality=70)
    return decode(encoded.getvalue())


def cropped(pixels, top, left):
    """95 % of each side; `top` and `left` are the share of the removed part that is removed there."""
    h, w = (round(0.95 * side) for side in pixels.shape[:2])
    y, x = round(top * (pixels.shape[0] - h)), round(left * (pixels.shape[1] - w))
    return np.ascontiguousarray(pixels[y : y + h, x : x + w])


def copies(pixels):
    height, width, _ = pixels.shape
    return [
        jpeg(pixels),
        cropped(pixels, 0, 1),
        resized(cropped(pixels, 0.5, 0.5), height, width),
        resized(cropped(pixels, 1, 0.3), height, width),
        resized(pixels, round(0.6 * height), round(0.6 * width)),
        resized(pixels, height, round(0.8 * width)),
    ]


def drawn(draw, side=64):
    """A drawing in black on white, with the antialiasing of a scan."""
    image = Image.new("RGB", (4 * side, 4 * side), "white")
    draw(ImageDraw.Draw(image), 4 * side)
    return resized(np.asarray(image), side, side)


def letter(*strokes):
    """Strokes are ((x, y), (x, y)) in 0..1."""
    return drawn(
        lambda pen, n: [
            pen.line([(x * n, y * n) for x, y in stroke], fill="black", width=n // 16) for stroke in strokes
        ]
    )


STEM, TOP, MIDDLE, FOOT = (
    ((0.3, 0.2), (0.3, 0.8)),
    ((0.3, 0.2), (0.7, 0.2)),
    ((0.3, 0.5), (0.6, 0.5)),
    ((0.3, 0.8), (0.7, 0.8)),
)


def find(images, **options):
    asked = []

    def read(index):
        asked.append(index)
        return ((i, images[i]) for i in index.tolist()[::-1])

    thumbnails = np.stack([thumbnail(pixels) for pixels in images])
    found = twins.twins(thumbnails, [pixel_sha(pixels) for pixels in images], read, **options)
    for index in asked:
        assert (np.diff(index) > 0).all()
    return found, sorted({i for index in asked for i in index.tolist()})


def linked(found):
    return {(twin.first, twin.second) for twin in found}


# The exact identity


def test_pixels_are_identified_across_formats_and_by_shape():
    pixels = texture(0)
    files = []
    for kind in ("PNG", "BMP"):
        encoded = io.BytesIO()
        Image.fromarray(pixels).save(encoded, kind)
        files.append(encoded.getvalue())
    assert files[0] != files[1]
    assert len({pixel_sha(decode(data)) for data in files} | {pixel_sha(pixels)}) == 1
    assert pixel_sha(pixels) != pixel_sha(pixels.reshape(32, 128, 3))
    changed = pixels.copy()
    changed[5, 6, 2] ^= 1
    assert pixel_sha(changed) != pixel_sha(pixels)


# The thumbnail


@pytest.mark.parametrize("shape", [(16, 16), (48, 32), (37, 91), (112, 200)])
def test_a_cell_is_the_mean_of_its_area(shape):
    pixels = texture(1, *shape)
    down, right = 240, 240  # each pixel becomes 16 x 15 equal parts of a cell's side, so all edges are whole
    fine = np.repeat(np.repeat(pixels[..., 1], down // 15, axis=0), right // 15, axis=1).astype(np.float64)
    slow = [
        [cell.mean() for cell in np.split(row, 16, axis=1)] for row in np.split(fine, 16, axis=0)
    ]  # needs no weights
    assert np.abs(thumbnail(pixels).astype(float) - np.array(slow)).max() <= 0.51


def test_large_images_are_sampled_and_small_ones_have_no_thumbnail():
    large = texture(2, 300, 450)
    mean = np.asarray(Image.fromarray(large[..., 1]).resize((16, 16), Image.Resampling.BOX)).astype(float)
    assert np.abs(thumbnail(large) - mean).mean() < 3
    assert not thumbnail(texture(2, 15, 200)).any()
    assert not thumbnail(texture(2, 200, 15)).any()


# The hash


def test_a_mirrored_image_has_the_last_two_words_inverted():
    thumbnails = np.stack([thumbnail(texture(seed)) for seed in range(20)])
    plain, mirror = difference_hash(thumbnails)[0], difference_hash(thumbnails[:, :, ::-1])[0]
    assert (plain[:, :2] == mirror[:, :2]).all()
    assert np.bitwise_count(~plain[:, 2:] ^ mirror[:, 2:]).sum() <= 2  # but for rounding near 0


def test_hashes_ignore_brightness_and_contrast_and_tell_images_apart():
    thumbnails = np.stack([thumbnail(texture(seed)) for seed in range(60)])
    darker = (thumbnails // 2 + 20).astype(np.uint8)
    (plain,), (changed,) = difference_hash(thumbnails), difference_hash(darker)
    assert np.bitwise_count(plain ^ changed).sum(axis=1).max() <= 6
    distance = np.bitwise_count(plain[:, None] ^ plain[None]).sum(axis=-1)[np.triu_indices(60, 1)]
    assert distance.min() > proposals.RADIUS
    assert abs(distance.mean() - 128) < 6  # as for independent bits


def test_a_crop_is_near_one_of_the_nine_hashes():
    images = [texture(seed, 96, 96) for seed in range(30)]
    hashes = difference_hash(np.stack([thumbnail(pixels) for pixels in images]), crops=True)
    assert hashes.shape == (9, 30, 4)
    for top, left in ((0, 0), (0, 1), (1, 0.5), (0.5, 0.5)):
        crop = difference_hash(np.stack([thumbnail(cropped(pixels, top, left)) for pixels in images]))[0]
        distance = np.bitwise_count(hashes ^ crop).sum(axis=-1)
        assert distance.min(axis=0).max() <= proposals.RADIUS
    assert distance.min(axis=0).mean() < distance[0].mean()  # the whole image's hash alone is farther


# Proposals


def slow_pairs(thumbnails, mirrored=False):
    whole = difference_hash(thumbnails)[0]
    hashes = difference_hash(thumbnails, crops=True)
    if mirrored:
        hashes = np.concatenate([hashes[..., :2], ~hashes[..., 2:]], axis=-1)
    as_int = [[int.from_bytes(row.tobytes(), "little") for row in crop] for crop in hashes]
    other = [int.from_bytes(row.tobytes(), "little") for row in whole]
    flat = [int(cells.max()) - int(cells.min()) <= 4 for cells in thumbnails]
    return {
        (min(i, j), max(i, j))
        for i in range(len(thumbnails))
        for j in range(len(thumbnails))
        if i != j and not flat[i] and not flat[j]
        if min((crop[i] ^ other[j]).bit_count() for crop in as_int) <= proposals.RADIUS
    }


def similar_thumbnails(n, seed=0):
    """Thumbnails of which many are similar and some are flat."""
    rng = np.random.default_rng(seed)
    bases = np.stack([gaussian_filter(rng.standard_normal((16, 16)), 1.5) for _ in range(n // 4)])
    chosen = bases[rng.integers(len(bases), size=n)] / bases.std()
    chosen = chosen + 0.25 * rng.standard_normal((n, 16, 16)) * rng.random((n, 1, 1))
    chosen[::17] = 0
    return np.clip(128 + 40 * chosen, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("mirrored", [False, True])
def test_proposals_are_those_of_a_slow_search(mirrored):
    thumbnails = similar_thumbnails(120)
    if mirrored:
        thumbnails[::2] = thumbnails[::2, :, ::-1]
    pairs = propose(thumbnails)[mirrored]  # the second are the mirrored ones
    expected = slow_pairs(thumbnails, mirrored)
    assert len(expected) > 100
    assert sorted(expected) == [tuple(pair) for pair in pairs.tolist()]  # ascending, no repeats


def test_tables_find_what_comparing_all_finds(monkeypatch):
    thumbnails = similar_thumbnails(1500)
    every = {tuple(pair) for pair in propose(thumbnails).near.tolist()}
    monkeypatch.setattr(proposals, "_EXACT", 0)
    some = {tuple(pair) for pair in propose(thumbnails).near.tolist()}
    assert len(every) > 1500
    assert some <= every
    assert len(some) >= 0.95 * len(every)


def slow_tables(thumbnails, mirrored):
    """What one table after another proposes, by loops over images."""
    found = {}
    whole, hashes = difference_hash(thumbnails)[0], difference_hash(thumbnails, crops=True)
    if mirrored:
        hashes = np.concatenate([hashes[..., :2], ~hashes[..., 2:]], axis=-1)
    flat = np.ptp(thumbnails, axis=(1, 2)) <= 4
    images = [i for i in range(len(thumbnails)) if not flat[i]]
    for table in range(32):
        columns = draws.permutation(draws.key(0, "table", table), 32)[:8].tolist()

        def key(row, columns=columns):
            octets = row.tobytes()
            return bytes(octets[column] for column in columns)

        order = sorted(images, key=lambda i: key(whole[i]))
        keys = [key(whole[i]) for i in order]
        for crop in hashes:
            for i in images:
                wanted = key(crop[i])
                place = bisect_left(keys, wanted)
                for at in range(max(0, place - 32), min(len(order), place + 32)):
                    bits = int(np.bitwise_count(crop[i] ^ whole[order[at]]).sum())
                    if keys[at][:3] == wanted[:3] and i != order[at] and bits <= proposals.RADIUS:
                        found[tuple(sorted((i, order[at])))] = True
    return sorted(found)


@pytest.mark.parametrize("mirrored", [False, True])
def test_tables_are_those_of_a_slow_search(monkeypatch, mirrored):
    monkeypatch.setattr(proposals, "_EXACT", 0)
    monkeypatch.setattr(proposals, "_ASKED", 50)
    thumbnails = similar_thumbnails(160, seed=1)
    thumbnails[1::2] = thumbnails[1::2, :, ::-1]
    expected = slow_tables(thumbnails, mirrored)
    assert len(expected) > 50
    for workers in (0, 3):
        with Threads(workers) as threads:
            pairs = propose(thumbnails, threads=threads)[mirrored]
        assert expected == [tuple(pair) for pair in pairs.tolist()]


def test_an_image_keeps_its_nearest_pairs(monkeypatch):
    monkeypatch.setattr(proposals, "NEAREST", 2)
    thumbnails = similar_thumbnails(80)
    kept = propose(thumbnails).near
    hashes = difference_hash(thumbnails, crops=True)
    distance = np.bitwise_count(hashes[:, :, None] ^ hashes[0]).sum(axis=-1).min(axis=0)
    distance = np.minimum(distance, distance.T)
    near = slow_pairs(thumbnails)
    for i in range(len(thumbnails)):
        own = sorted(distance[pair] for pair in near if i in pair)
        mine = sorted(distance[tuple(pair)] for pair in kept.tolist() if i in pair)
        assert mine[:2] == own[:2]
    assert len(kept) < len(near)


def test_many_equal_or_flat_thumbnails_give_few_pairs():
    n = 50_000
    thumbnails = np.repeat(thumbnail(texture(3))[None], n, axis=0)
    pairs = propose(thumbnails).near
    assert len(pairs) <= n * proposals.NEAREST
    assert (groups(n, pairs) == 0).all()
    thumbnails[:] = np.arange(n, dtype=np.uint8)[:, None, None]  # flat, of every brightness
    assert len(propose(thumbnails).near) == 0


# Confirmation


@pytest.mark.parametrize("side", [32, 64, 150])
def test_changed_copies_are_confirmed(side):
    images = [texture(seed, side, side) for seed in range(8)]
    pairs = [(pixels, copy) for pixels in images for copy in copies(pixels)]
    result = confirm(*zip(*pairs, strict=True))
    assert result.correlation.dtype == np.float32
    assert result.twins.mean() >= 0.97
    again = confirm(*reversed(list(zip(*pairs, strict=True))))  # the copy first
    assert again.twins.mean() >= 0.97
    assert np.abs(result.correlation - again.correlation).max() < 0.1


def test_equal_images_correlate_fully_and_mirrored_ones_do_not():
    images = [texture(seed) for seed in range(5)]
    result = confirm(images, images)
    assert result.correlation == pytest.approx(1, abs=1e-3)
    assert result.twins.all()
    assert not confirm(images, [pixels[:, ::-1] for pixels in images]).twins.any()


def test_different_textures_under_the_same_light_are_not_twins():
    light = np.linspace(60, 190, 64)[:, None, None]

    def lit(seed):
        grain = np.random.default_rng(seed).standard_normal((64, 64, 1))
        return (
            np.clip(light + 10 * gaussian_filter(grain, (1, 1, 0)) / 0.28, 0, 255)
            .astype(np.uint8)
            .repeat(3, 2)
        )

    one, other = lit(0), lit(1)
    assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.9  # the pixels alone would say yes
    assert not confirm([one], [other]).twins.any()
    assert confirm([one], [jpeg(one)]).twins.all()


def test_different_letters_are_not_twins():
    letters = [
        letter(STEM, TOP, MIDDLE, FOOT),  # E
        letter(STEM, TOP, MIDDLE),  # F
        letter(STEM, TOP, FOOT),  # [
        letter(STEM, FOOT),  # L
        letter(STEM),
        letter(STEM, MIDDLE),
    ]
    pairs = [(a, b) for i, a in enumerate(letters) for b in letters[:i]]
    assert not confirm(*zip(*pairs, strict=True)).twins.any()
    assert confirm(letters, [resized(pixels, 40, 40) for pixels in letters]).twins.all()


def test_an_added_object_makes_another_image():
    one = texture(5, 128, 128)
    other = one.copy()
    other[40:52, 40:52] = 128
    result = confirm([one], [other])
    assert result.correlation[0] >= confirmation.CORRELATION  # most of the image is equal
    assert not result.twins[0]


# All together


def test_planted_copies_are_found_and_nothing_else():
    images = [texture(seed, 64, 80) for seed in range(60)]
    originals = list(range(0, 60, 4))
    owner = list(range(60))
    for i in originals:
        made = [*copies(images[i]), np.ascontiguousarray(images[i][:, ::-1])]
        images += made
        owner += [i] * len(made)
    found, read = find(images)
    assert all(owner[twin.first] == owner[twin.second] for twin in found)
    planted = {(owner[i], i) for i in range(60, len(images))}
    assert len(planted & linked(found)) >= 0.97 * len(planted)
    last = {i for i in range(60, len(images)) if (i - 60) % 7 == 6}
    for twin in found:
        assert twin.kind == ("mirrored" if (twin.first in last) != (twin.second in last) else "near")
        assert confirmation.CORRELATION <= twin.correlation <= 1
    assert found == sorted(found)
    assert len(linked(found)) == len(found)
    assert len(set(read) & (set(range(60)) - set(originals))) <= 2  # others are not decoded again
    unmirrored, _ = find(images, mirrored=False)
    assert unmirrored == [twin for twin in found if twin.kind == "near"]


def test_an_image_keeps_its_likeliest_pairs():
    random = np.random.default_rng(0)
    pairs = np.array([(i, j) for i in range(12) for j in range(i + 1, 12) if random.random() < 0.7])
    likeness = random.integers(0, 20, len(pairs)).astype(np.float32)  # some are alike
    for count in (1, 3, 50):
        kept = set[int]()
        for image in range(12):
            own = [p for p, pair in enumerate(pairs) if image in pair]
            # Of pairs that are alike, those in which the image comes first count, then the first ones.
            own.sort(key=lambda p: (-likeness[p], int(pairs[p][1] == image), p))
            kept |= {int(p) for p in own[:count]}
        assert set(np.flatnonzero(twins._best(pairs, likeness, count))) == kept


def test_batches_rounds_and_threads_do_not_change_the_twins(monkeypatch):
    images = [texture(seed, 40, 32) for seed in range(8)]
    images += [copy for pixels in images for copy in [*copies(pixels), np.ascontiguousarray(pixels[:, ::-1])]]
    found, read = find(images)
    assert len(found) > 100
    monkeypatch.setattr(twins, "_BATCH", 7)
    monkeypatch.setattr(twins, "_ROUND", 31)
    assert find(images, workers=2) == (found, read)


def test_equal_images_form_a_star_and_only_the_first_is_compared():
    one, other = texture(0), texture(1)
    images = [one, other, one, jpeg(one), one, one]
    found, read = find(images)
    assert [twin[:3] for twin in found] == [(0, 2, "equal"), (0, 3, "near"), (0, 4, "equal"), (0, 5, "equal")]
    assert [twin.correlation for twin in found if twin.kind == "equal"] == [1.0] * 3
    assert read == [0, 3]


def test_a_hundred_thousand_equal_images_give_as_many_pairs():
    n = 100_000
    thumbnails = np.repeat(thumbnail(texture(0))[None], n, axis=0)
    found = twins.twins(thumbnails, ["same"] * n, lambda index: [])
    assert found == [Twin(0, i, "equal", 1.0) for i in range(1, n)]


def test_of_flat_and_tiny_images_only_equal_ones_are_twins():
    flat = [np.full((32, 32, 3), grey, np.uint8) for grey in (0, 1, 128, 255, 128)]
    tiny = [texture(0, 8, 8), jpeg(texture(0, 8, 8)), texture(0, 8, 8), texture(1, 15, 60)]
    found, read = find([*flat, *tiny, jpeg(tiny[3])])
    assert found == [Twin(2, 4, "equal", 1.0), Twin(5, 7, "equal", 1.0)]
    assert read == []


def test_a_set_without_images():
    assert twins.twins(np.empty((0, 16, 16), np.uint8), [], lambda index: []) == []


# Groups


def test_groups_are_those_of_a_slow_search():
    rng = np.random.default_rng(0)
    pairs = rng.integers(60, size=(35, 2))
    expected = list(range(60))
    for _ in range(60):
        for i, j in pairs.tolist():
            expected[i] = expected[j] = min(expected[i], expected[j])
    found = groups(60, pairs)
    assert found.tolist() == expected
    assert found.dtype == np.int64
    assert groups(3, np.empty((0, 2), np.int64)).tolist() == [0, 1, 2]
