"""Each operation against torchvision at the same parameters, and whole views against its transforms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from data.draws import Draws
from models import augment
from models.augment import (
    adjust_hue,
    affine_crop,
    affine_maps,
    blur_radius,
    centre,
    colour_jitter,
    crop_boxes,
    gaussian_blur,
    grey,
    jitter_factors,
    random_view,
    resized_crop,
)
from models.configs.shared import Views

STRONG = Views(crop_min=0.2, jitter=1.0, jitter_probability=0.7, grey=0.3, blur=0.5)


class _Torchvision:
    """torchvision's functional transforms. They are imported on first use, so collection takes less time."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # pytest looks for marks on everything in a module
            raise AttributeError(name)
        from torchvision.transforms.v2 import functional

        return getattr(functional, name)


tv = _Torchvision()


def photographs(n: int, side: int, seed: int = 0) -> Tensor:
    """Smooth colour fields with noise, different in every image; (n, side, side, 3) uint8."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 3, 4, 4, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic", align_corners=False)
    noise = 0.08 * torch.randn(n, 3, side, side, generator=generator)
    return ((fine + noise).clamp(0, 1) * 255).byte().permute(0, 2, 3, 1).contiguous()


def floats(n: int, side: int, seed: int = 0) -> Tensor:
    return photographs(n, side, seed).permute(0, 3, 1, 2).float() / 255


def draws(n: int, epoch: int = 0) -> Draws:
    return Draws(0, "test", epoch, np.arange(n))


@pytest.mark.parametrize(("side", "size"), [(32, 32), (40, 24), (33, 48), (8, 8)])
def test_resized_crop_equals_torchvision(side: int, size: int) -> None:
    x = floats(24, side)
    boxes = crop_boxes(draws(24).uniform("crop", 22), side, 0.08)
    flip = np.arange(24) % 2 == 1
    ours = resized_crop(photographs(24, side), boxes, flip, size)
    for i, (top, left, height, width) in enumerate(boxes.tolist()):
        expected = tv.resized_crop(x[i], top, left, height, width, [size, size], antialias=True)
        if flip[i]:
            expected = tv.horizontal_flip(expected)
        torch.testing.assert_close(ours[i], expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize(("side", "size"), [(64, 64), (110, 96), (80, 40), (64, 100)])
def test_large_images_are_resized_as_torchvision_does_uint8(side: int, size: int) -> None:
    images = photographs(12, side)
    boxes = crop_boxes(draws(12).uniform("crop", 22), side, 0.08)
    flip = np.arange(12) % 2 == 1
    ours = resized_crop(images, boxes, flip, size)
    for i, (top, left, height, width) in enumerate(boxes.tolist()):
        expected = tv.resized_crop(
            images[i].permute(2, 0, 1), top, left, height, width, [size, size], antialias=True
        )
        expected = tv.horizontal_flip(expected) if flip[i] else expected
        assert torch.equal(ours[i], expected / 255)
    all_at_once = augment._crop_all(images, boxes, flip, size)
    torch.testing.assert_close(ours, all_at_once, rtol=0, atol=1.2 / 255)  # rounded, and weights of 16 bits


@pytest.mark.parametrize("side", [17, 80])
def test_whole_image_and_flip_are_exact(side: int) -> None:
    x, images = floats(6, side), photographs(6, side)
    whole = np.tile([0, 0, side, side], (6, 1))
    assert torch.equal(resized_crop(images, whole, np.zeros(6, bool), side), x)
    assert torch.equal(resized_crop(images, whole, np.ones(6, bool), side), x.flip(3))


def test_crop_boxes_are_distributed_as_torchvisions() -> None:
    from scipy.stats import ks_2samp
    from torchvision.transforms import RandomResizedCrop

    n, side = 4000, 32
    ours = crop_boxes(draws(n).uniform("crop", 22), side, 0.08)
    torch.manual_seed(0)
    image = torch.empty(3, side, side)
    theirs = np.array([RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(n)])
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, :2] + ours[:, 2:] <= side).all()
    for column in range(4):
        assert ks_2samp(ours[:, column], theirs[:, column]).pvalue > 1e-3
    assert ks_2samp(ours[:, 2] * ours[:, 3], theirs[:, 2] * theirs[:, 3]).pvalue > 1e-3
    assert (
        ks_2samp(ours[:, 0] / (side - ours[:, 2] + 1), theirs[:, 0] / (side - theirs[:, 2] + 1)).pvalue > 1e-3
    )


def test_crop_boxes_try_again_and_fall_back_to_the_whole_image() -> None:
    u = np.full((3, 22), 0.5)
    u[:, :10] = 0.999  # nearly the whole area ...
    u[:, 10:20] = 0.0  # ... at ratio 3/4: too high
    u[1, 16] = 0.5  # the seventh try is square
    u[2, [4, 14]] = (0.0, 0.5)  # the fifth is small and square
    found = crop_boxes(u, 64, 0.25)
    assert found.tolist() == [[0, 0, 64, 64], [0, 0, 64, 64], [16, 16, 32, 32]]
    assert crop_boxes(draws(50).uniform("crop", 22), 32, 1.0).tolist() == [[0, 0, 32, 32]] * 50


@pytest.mark.parametrize(("operation", "reference"), [
    (augment.BRIGHTNESS, "adjust_brightness"),
    (augment.CONTRAST, "adjust_contrast"),
    (augment.SATURATION, "adjust_saturation"),
    (augment.HUE, "adjust_hue"),
])  # fmt: skip
def test_colour_operations_equal_torchvision(operation: int, reference: str) -> None:
    x = floats(16, 12)
    factors = jitter_factors(draws(16).uniform("jitter", 4), 1.0)
    neutral = np.tile([1.0, 1.0, 1.0, 0.0], (16, 1))
    neutral[:, operation] = factors[:, operation]
    ours = colour_jitter(x.clone(), neutral, np.tile(np.arange(4), (16, 1)))
    expected = torch.stack([getattr(tv, reference)(x[i], factors[i, operation]) for i in range(16)])
    torch.testing.assert_close(ours, expected, rtol=0, atol=3e-6)


def test_jitter_in_each_images_own_order_equals_torchvision() -> None:
    n = 48
    x = floats(n, 12)
    u = draws(n).uniform("jitter", 8)
    factors, order = jitter_factors(u[:, :4], 1.0), np.argsort(u[:, 4:], axis=1)
    assert len({tuple(row) for row in order.tolist()}) > 15
    reference = [tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue]
    ours = colour_jitter(x.clone(), factors, order)
    for i in range(n):
        expected = x[i]
        for operation in order[i]:
            expected = reference[operation](expected, factors[i, operation])
        torch.testing.assert_close(ours[i], expected, rtol=0, atol=1e-5)


def test_hue_of_primaries_and_greys() -> None:
    colours = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0.4, 0.4, 0.4], [0, 0, 0], [1, 1, 0]])
    x = colours.T.reshape(1, 3, 1, 6)
    third = adjust_hue(x, np.array([1 / 3]))[0, :, 0].T
    expected = torch.tensor([[0.0, 1, 0], [0, 0, 1], [1, 0, 0], [0.4, 0.4, 0.4], [0, 0, 0], [0, 1, 1]])
    torch.testing.assert_close(third, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(adjust_hue(floats(3, 9), np.zeros(3)), floats(3, 9), rtol=0, atol=1e-6)


def test_jitter_factors_span_simclrs_ranges() -> None:
    u = np.array([[0.0] * 4, [0.5] * 4, [1.0] * 4])
    np.testing.assert_allclose(
        jitter_factors(u, 0.5), [[0.6, 0.6, 0.6, -0.1], [1, 1, 1, 0], [1.4, 1.4, 1.4, 0.1]]
    )
    np.testing.assert_allclose(jitter_factors(u, 1.0)[[0, 2]], [[0.2] * 3 + [-0.2], [1.8] * 3 + [0.2]])


def test_grey_equals_torchvision() -> None:
    torch.testing.assert_close(grey(floats(4, 9)), tv.rgb_to_grayscale(floats(4, 9)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("radius", [1, 3, 11])
def test_blur_equals_torchvision(radius: int) -> None:
    x = floats(6, 24)
    sigma = np.linspace(0.1, 2.0, 6)
    ours = gaussian_blur(x, sigma, radius)
    for i in range(6):
        expected = tv.gaussian_blur(x[i], [2 * radius + 1] * 2, [sigma[i]] * 2)
        torch.testing.assert_close(ours[i], expected, rtol=0, atol=2e-6)


def test_blur_radius_follows_simclr() -> None:
    assert [2 * blur_radius(side) + 1 for side in (224, 96, 32, 8)] == [23, 9, 3, 1]


def test_affine_crop_of_the_identity_is_the_crop() -> None:
    x = floats(12, 16)
    boxes = crop_boxes(draws(12).uniform("crop", 22), 16, 0.3)
    flip = np.arange(12) % 2 == 0
    identity = affine_maps(np.full((12, 6), 0.5), Views(rotate=90, shear=45, zoom=2, stretch=2, shift=0.5))
    np.testing.assert_allclose(identity, np.tile(np.eye(2, 3), (12, 1, 1)), atol=1e-12)
    inner = affine_crop(x, boxes, flip, identity, 16)[
        :, :, 2:-2, 2:-2
    ]  # pixels outside the image affect the border
    cropped = resized_crop(photographs(12, 16), boxes, flip, 16)
    torch.testing.assert_close(inner, cropped[:, :, 2:-2, 2:-2], rtol=0, atol=1e-5)


def only(**parts: tuple[float, float]) -> tuple[np.ndarray, Views]:
    """Return maps (draw, largest) in which only the named parts use their draws."""
    u = np.full((2, 6), 0.5)
    for name, (draw, _) in parts.items():
        u[:, ["rotate", "shear", "zoom", "stretch", "shift", "shift_y"].index(name)] = draw
    config = Views(**{name.removesuffix("_y"): largest for name, (_, largest) in parts.items()})
    return affine_maps(u, config), config


@pytest.mark.parametrize("degrees", [-30.0, 10.0, 90.0])
def test_rotation_equals_torchvision(degrees: float) -> None:
    maps, _ = only(rotate=(0.5 + 0.5 * np.sign(degrees), abs(degrees)))
    check_against(maps, angle=-degrees)


@pytest.mark.parametrize(("part", "largest", "expected"), [
    ("zoom", 1.25, {"scale": 1 / 1.25}),
    ("shift", 0.25, {"translate": [-4, 0]}),
    ("shift_y", 0.25, {"translate": [0, -4]}),
])  # fmt: skip
def test_zoom_and_shift_equal_torchvision(part: str, largest: float, expected: dict) -> None:
    maps, _ = only(**{part: (1.0, largest)})
    check_against(maps, **expected)


def check_against(maps: np.ndarray, **expected: float) -> None:
    from torchvision.transforms import InterpolationMode

    x = floats(2, 16)
    whole = np.tile([0, 0, 16, 16], (2, 1))
    ours = affine_crop(x, whole, np.array([False, True]), maps, 16)
    parts = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0], **expected}
    theirs = tv.affine(x, **parts, interpolation=InterpolationMode.BILINEAR)
    inside = tv.affine(torch.ones(2, 1, 16, 16), **parts, interpolation=InterpolationMode.BILINEAR) > 0.999
    assert inside.float().mean() > 0.5
    unmirrored = affine_crop(x, whole, np.array([False, False]), maps, 16)
    assert ((unmirrored - theirs).abs() * inside).max() < 2e-5
    torch.testing.assert_close(ours[1], unmirrored[1].flip(2), rtol=0, atol=1e-5)


def test_shear_and_stretch_keep_the_area() -> None:
    u = draws(500).uniform("affine", 6)
    maps = affine_maps(u, Views(rotate=30, shear=20, stretch=1.5))
    np.testing.assert_allclose(np.linalg.det(maps[:, :, :2]), 1, atol=1e-12)
    zoomed = affine_maps(u, Views(zoom=1.4))
    sides = np.sqrt(np.linalg.det(zoomed[:, :, :2]))
    assert 1 / 1.4 <= sides.min() < 0.73 < 1.38 < sides.max() <= 1.4
    assert abs(np.log(sides).mean()) < 0.04


def test_noise_has_the_deviation_asked_for_and_is_drawn_anew_for_every_value() -> None:
    flat = torch.full((64, 16, 16, 3), 128, dtype=torch.uint8)
    config = Views(crop_min=1, flip=0, jitter=0, grey=0, noise=0.05)
    x = random_view(flat, draws(64), "a", config, 16) - 128 / 255
    assert abs(x.std().item() - 0.05) < 0.001
    assert abs(x.mean().item()) < 0.001
    rows = x.flatten(1)
    correlation = torch.corrcoef(rows) - torch.eye(64)
    assert correlation.abs().max() < 0.2


@pytest.mark.parametrize(
    "config",
    [
        STRONG,
        Views(rotate=15, shear=10, zoom=1.3, shift=0.1, noise=0.1, flip=0, crop_min=0.5, jitter=0, grey=0),
    ],
)
@pytest.mark.parametrize(("side", "size"), [(32, 32), (8, 8), (37, 29), (70, 64)])
def test_a_view_depends_on_nothing_but_image_and_draws(
    config: Views, side: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = photographs(33, side)
    whole = random_view(images, draws(33), "view", config, size)
    index = np.arange(33)
    for rows in (index[:1], index[5:6], index[::-1].copy(), index[3:20]):
        part = random_view(images[torch.from_numpy(rows)], Draws(0, "test", 0, rows), "view", config, size)
        assert torch.equal(part, whole[torch.from_numpy(rows)])
    monkeypatch.setattr(augment, "CACHED", 1)
    assert torch.equal(random_view(images, draws(33), "view", config, size), whole)


def test_views_are_float32_channels_last_in_range_and_differ() -> None:
    images = photographs(16, 32)
    first, second = (random_view(images, draws(16), name, STRONG, 24) for name in ("first", "second"))
    later = random_view(images, draws(16, epoch=1), "first", STRONG, 24)
    for view in (first, second, later):
        assert view.shape == (16, 3, 24, 24)
        assert view.dtype == torch.float32
        assert view.is_contiguous(memory_format=torch.channels_last)
        assert 0 <= view.min() <= view.max() <= 1 + 1e-6
    for other in (second, later):
        assert ((first - other).abs().amax(dim=(1, 2, 3)) > 0.05).all()


def test_switched_off_leaves_the_image() -> None:
    images = photographs(8, 12)
    off = Views(crop_min=1, flip=0, rotate=0, jitter=0, grey=0, blur=0)
    assert torch.equal(random_view(images, draws(8), "view", off, 12), centre(images, 12))


def test_probabilities_are_kept() -> None:
    from scipy.stats import chisquare

    n = 6000
    images = photographs(1, 20).expand(n, -1, -1, -1)
    still = {"crop_min": 1.0, "flip": 0.0, "jitter": 0.0, "grey": 0.0}
    plain = centre(images[:1], 20)
    for part in ({"flip": 0.5}, {"grey": 0.2}, {"jitter": 0.5, "jitter_probability": 0.8}):
        view = random_view(images, draws(n), "view", Views(**{**still, **part}), 20)
        changed = int(((view - plain).abs().amax(dim=(1, 2, 3)) > 1e-4).sum())
        p = list(part.values())[-1]
        assert chisquare([changed, n - changed], [n * p, n * (1 - p)]).pvalue > 1e-4


def test_moments_of_views_equal_torchvisions_pipeline() -> None:
    """For 800 views of each of four images, eight summaries agree in mean and in distribution."""
    from scipy.stats import ks_2samp
    from torchvision.transforms import v2

    images, n, size = photographs(4, 24), 800, 24
    theirs_of = v2.Compose([
        v2.ToDtype(torch.float32, scale=True),
        v2.RandomResizedCrop(size, scale=(0.2, 1.0), antialias=True),
        v2.RandomHorizontalFlip(0.5),
        v2.RandomApply([v2.ColorJitter(0.8, 0.8, 0.8, 0.2)], 0.7),
        v2.RandomGrayscale(0.3),
        v2.RandomApply([v2.GaussianBlur(3, (0.1, 2.0))], 0.5),
    ])  # fmt: skip
    torch.manual_seed(0)
    for image in images:
        ours = random_view(image.expand(n, -1, -1, -1), draws(n), "view", STRONG, size)
        theirs = torch.stack([theirs_of(image.permute(2, 0, 1)) for _ in range(n)])
        a, b = _summaries(ours).numpy(), _summaries(theirs).numpy()
        error = np.sqrt(a.var(axis=0) / n + b.var(axis=0) / n)
        assert (np.abs(a.mean(axis=0) - b.mean(axis=0)) < 4.5 * error).all()
        assert min(ks_2samp(x, y).pvalue for x, y in zip(a.T, b.T, strict=True)) > 1e-4


def _summaries(views: Tensor) -> Tensor:
    """(n, 8): channel means, spread, colourfulness, left minus right, top minus bottom, fine detail."""
    half = views.shape[-1] // 2
    luma = views.mean(dim=1)
    return torch.stack(
        [
            *views.mean(dim=(2, 3)).unbind(1),
            luma.std(dim=(1, 2)),
            (views.amax(dim=1) - views.amin(dim=1)).mean(dim=(1, 2)),
            (luma[:, :, :half] - luma[:, :, half:]).mean(dim=(1, 2)),
            (luma[:, :half] - luma[:, half:]).mean(dim=(1, 2)),
            luma.diff(dim=2).abs().mean(dim=(1, 2)),
        ],
        dim=1,
    )


def test_centre_crops_keeps_or_enlarges() -> None:
    images = photographs(3, 12)
    plain = images.permute(0, 3, 1, 2).float() / 255
    assert torch.equal(centre(images, 12), plain)
    assert torch.equal(centre(images, 8), plain[:, :, 2:10, 2:10])
    torch.testing.assert_close(centre(images, 20), tv.resize(plain, [20, 20]), rtol=0, atol=2e-6)
    for size in (8, 12, 20):
        assert centre(images, size).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("channels", [1, 2, 4, 16])
@pytest.mark.parametrize("side", [24, 80])
def test_bands_are_cropped_and_blurred_like_colours_but_not_recoloured(channels: int, side: int) -> None:
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (6, side, side, 16), dtype=np.uint8))
    plain = Views(jitter=0, grey=0, blur=0.5, solarize=0, noise=0)
    strong = plain.model_copy(update={"jitter": 1.0, "grey": 1.0, "solarize": 1.0})
    of_bands = random_view(images[..., :channels], draws(6), "v", strong, 24)
    assert of_bands.shape == (6, channels, 24, 24)
    colours = [
        random_view(images[..., [band] * 3], draws(6), "v", plain, 24)[:, 0] for band in range(channels)
    ]
    torch.testing.assert_close(of_bands, torch.stack(colours, 1))
    assert centre(images[..., :channels], 20).shape == (6, channels, 20, 20)
    turned = plain.model_copy(update={"rotate": 20.0})
    assert random_view(images[..., :channels], draws(6), "v", turned, 24).shape == (6, channels, 24, 24)


# turn, uncovered


def test_quarter_turns_only_move_pixels():
    """Each view is the unturned view, turned by 0 to 3 quarters; all four are equally likely at 0.75."""
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (400, 12, 12, 3), np.uint8))
    plain = Views(crop_min=0.3, jitter=0, grey=0)
    draws = Draws(0, "t", 0, np.arange(400))
    before = random_view(images, draws, "view", plain, 10)
    after = random_view(images, draws, "view", plain.model_copy(update={"turn": 0.75}), 10)
    turned = torch.stack([torch.rot90(before, k, dims=(2, 3)) for k in range(4)])
    equal = (turned == after).flatten(2).all(2)
    assert (equal.sum(0) == 1).all()
    assert (abs(equal.float().mean(1) - 0.25) < 4 * (0.25 * 0.75 / 400) ** 0.5).all()


def test_what_an_affine_map_uncovers():
    """The background of a white page stays white with `edge`, and gets black corners without it."""
    images = torch.full((64, 16, 16, 3), 255, dtype=torch.uint8)
    draws = Draws(0, "t", 0, np.arange(64))
    options = {"crop_min": 1.0, "rotate": 30, "shift": 0.3, "zoom": 1.5, "jitter": 0, "grey": 0}
    edge = random_view(images, draws, "view", Views(**options, uncovered="edge"), 16)
    assert torch.allclose(edge, torch.ones(()))
    black = random_view(images, draws, "view", Views(**options), 16)
    assert (black.flatten(1).min(1).values < 0.1).float().mean() > 0.5
    inside = black > 0.999
    assert torch.allclose(edge[inside], black[inside])
