"""Random views of images, made for a whole batch on its device, with separate draws for each image.

`random_view` draws the parameters at random. Their distributions, and the order of the changes, are those of
torchvision's per-image transforms RandomResizedCrop, RandomHorizontalFlip, ColorJitter, RandomGrayscale,
GaussianBlur and RandomSolarize. The functions that apply given parameters equal torchvision's functional
transforms.

Two batched matrix products crop, mirror and resize the images, with one weight matrix per image and axis.
Larger images on a CPU are instead resized one by one as uint8, because torchvision has fast SIMD code for
that. Their values are then multiples of 1 / 255, as after a resize in PIL.

A quarter turn moves pixels without resampling them, after the crop.

Departures: rotation, crop and flip are done in a single bilinear sampling, without antialiasing. SimCLR's own
blur pads with zeros, which darkens the border. Our blur mirrors the image at the border, as torchvision does.

Shapes: B images, S the side of the stored images, s the side of a view. They have C channels, usually 3. If C
is not 3, the channels are bands without a meaning as colours. Then nothing changes hue, saturation, contrast
or brightness, makes grey, or solarises. Crops, flips, turns, blur and noise stay.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from data.draws import Draws
from data.preprocessing import first_of_centre
from models.configs.shared import AsymmetricViews, SmallCrops, Views

GREY = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in luma, as in torchvision (ITU-R BT.601, rounded)."""
RATIO = (3 / 4, 4 / 3)
TRIES = 10
CACHED = 600_000
"""Number of values that a CPU works on at a time: 192 images of 32 px."""
FEW = 4
"""If fewer images than this fit into `CACHED`, each image is worked on alone."""
ONE_BY_ONE = 64
"""A CPU crops and resizes stored images of this side (px) or larger one by one."""
SIGMAS = 5
"""A Gaussian's taps beyond this many standard deviations are left out. Together they weigh less than 1e-6."""
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)

Floats = NDArray[np.float64]


def random_view(
    images: Tensor, draws: Draws, name: str, config: Views, size: int, out: Tensor | None = None
) -> Tensor:
    """Make one random view of each image. A view doesn't depend on the other images in the batch.

    Args:
        images: (B, S, S, C) uint8.
        draws: random draws of the batch, one row per image.
        name: of the view. Two names give two independent views.
        config: which changes may happen, and how strong they are.
        size: side of the images that the network is for, px. The view's side s is `config.side(size)`.
        out: tensor to write the views into; None: a new one.

    Returns:
        (B, C, s, s) float32 in [0, 1], channels-last in memory. This is `out` if it was given.
    """
    size = config.side(size)
    B, side = len(images), images.shape[1]
    drawn = _draw(draws, name, config, side, size)
    # A CPU works on a share of the batch at a time, so that the share stays in the cache.
    channels = images.shape[3]
    share = CACHED // (channels * max(side, size) ** 2) if images.device.type == "cpu" else B
    share = share if share >= FEW else 1  # a single image need not be gathered for each operation
    x = _room(B, channels, size, images.device) if out is None else out
    for start in range(0, B, share):
        rows = slice(start, start + share)
        view = _view(images[rows], {part: values[rows] for part, values in drawn.items()}, config, size)
        if config.noise > 0:
            noise = _normal(
                replace(draws, index=draws.index[rows]), f"{name}.noise", view.shape[1:], x.device
            )
            view = (view + config.noise * noise).clamp_(0, 1)
        x[rows] = view
    return x


def two_views(images: Tensor, draws: Draws, config: Views, size: int, second: Views | None = None) -> Tensor:
    """Make two random views of each image, drawn independently.

    Args:
        images: (N, S, S, C) uint8.
        draws: random draws of the batch.
        config: how views are drawn.
        size: side of the images that the network is for, px. The views' side s is `config.side(size)`.
        second: how the second view is drawn; None: like the first.

    Returns:
        (2N, C, s, s) float32 in [0, 1]: the first view of every image, then the second of every image.
    """
    return _several(images, draws, {"first view": config, "second view": second or config}, config.side(size))


def multi_crop(images: Tensor, draws: Draws, config: Views, small: SmallCrops, size: int) -> list[Tensor]:
    """Make two large views and `small_crops` small views of each image (SwAV, section 3.3).

    Args:
        images: (N, S, S, C) uint8.
        draws: random draws of the batch.
        config: how views are drawn.
        small: number of small views, and what differs in them.
        size: side of the images that the network is for, px. The large views' side s is
            `config.side(size)`.

    Returns:
        (2N, C, s, s) float32 in [0, 1] and, if L = `small_crops` is above 0, (L N, C, s', s'). The first N
        rows hold the first view of every image, the next N the second view, and so on.
    """
    size = config.side(size)
    crops = [
        two_views(images, draws, config, size, config.second if isinstance(config, AsymmetricViews) else None)
    ]
    if small.small_crops:
        side = small.small_side(size)
        blur = config.blur if small.small_blur is None else small.small_blur
        change = {
            "crop_min": small.small_crop_min,
            "crop_max": small.small_crop_max,
            "view_size": side,
            "blur": blur,
        }
        views = config.model_copy(update=change)
        names = [f"small crop {number}" for number in range(small.small_crops)]
        crops.append(_several(images, draws, dict.fromkeys(names, views), side))
    return crops


def _several(images: Tensor, draws: Draws, views: dict[str, Views], size: int) -> Tensor:
    """Make several views of each image in one tensor. This is faster than torch.cat of separate tensors."""
    N = len(images)
    x = _room(len(views) * N, images.shape[3], size, images.device)
    for i, (name, config) in enumerate(views.items()):
        random_view(images, draws, name, config, size, out=x[i * N : (i + 1) * N])
    return x


def _room(n: int, channels: int, size: int, device: torch.device) -> Tensor:
    return torch.empty(n, channels, size, size, device=device, memory_format=torch.channels_last)


def _draw(draws: Draws, name: str, config: Views, side: int, size: int) -> dict[str, NDArray[Any]]:
    """Draw what happens to each image. Arrays have one row per image; impossible changes are left out."""
    drawn: dict[str, NDArray[Any]] = {
        "boxes": crop_boxes(
            draws.uniform(f"{name}.crop", 2 * TRIES + 2), side, config.crop_min, config.crop_max
        ),
        "flip": draws.uniform(f"{name}.flip", 1)[:, 0] < config.flip,
        "grey": draws.uniform(f"{name}.grey", 1)[:, 0] < config.grey,
    }
    if config.turn > 0:
        v = draws.uniform(f"{name}.turn", 2)
        drawn["turns"] = np.where(v[:, 0] < config.turn, 1 + np.floor(3 * v[:, 1]), 0).astype(np.int64)
    if config.rotate or config.shear or config.shift or config.zoom > 1 or config.stretch > 1:
        drawn["maps"] = affine_maps(draws.uniform(f"{name}.affine", 6), config)
    if config.jitter > 0:
        u = draws.uniform(f"{name}.jitter", 9)
        drawn["jitter"] = u[:, 8] < config.jitter_probability
        drawn["factors"], drawn["order"] = (
            jitter_factors(u[:, :4], config.jitter),
            np.argsort(u[:, 4:8], axis=1),
        )
    if config.blur > 0 and blur_radius(size):
        v = draws.uniform(f"{name}.blur", 2)
        drawn["blur"], drawn["sigma"] = v[:, 0] < config.blur, 0.1 + 1.9 * v[:, 1]
    if config.solarize > 0:
        drawn["solarize"] = draws.uniform(f"{name}.solarize", 1)[:, 0] < config.solarize
    return drawn


def _view(images: Tensor, drawn: dict[str, NDArray[Any]], config: Views, size: int) -> Tensor:
    """Apply what was drawn to the images."""
    if "maps" in drawn:
        planes, boxes, flip = _planes(images), drawn["boxes"], drawn["flip"]
        x = affine_crop(planes, boxes, flip, drawn["maps"], size, config.uncovered)
    else:
        x = resized_crop(images, drawn["boxes"], drawn["flip"], size)
    for turns in (1, 2, 3) if "turns" in drawn else ():
        _change(x, np.flatnonzero(drawn["turns"] == turns), partial(torch.rot90, k=turns, dims=(2, 3)))
    colours = images.shape[3] == 3
    if "jitter" in drawn and colours:
        rows = np.flatnonzero(drawn["jitter"])
        _change(x, rows, partial(colour_jitter, factors=drawn["factors"][rows], order=drawn["order"][rows]))
    if colours:
        _change(x, np.flatnonzero(drawn["grey"]), lambda y: grey(y).expand(-1, 3, -1, -1))
    if "blur" in drawn:
        rows = np.flatnonzero(drawn["blur"])
        _change(x, rows, partial(gaussian_blur, sigma=drawn["sigma"][rows], radius=blur_radius(size)))
    if "solarize" in drawn and colours:
        _change(x, np.flatnonzero(drawn["solarize"]), solarize)
    return x


def centre(images: Tensor, size: int) -> Tensor:
    """The view for evaluation: the central s x s px. A smaller image is enlarged to s x s px instead.

    Args:
        images: (B, S, S, C) uint8.
        size: s, px.

    Returns:
        (B, C, s, s) float32 in [0, 1], channels-last in memory.
    """
    side = images.shape[1]
    if side >= size:
        start = first_of_centre(side, size)
        x = _planes(images[:, start : start + size, start : start + size])
    else:
        boxes = np.tile(np.array([0, 0, side, side]), (len(images), 1))
        x = resized_crop(images, boxes, np.zeros(len(images), dtype=bool), size)
    return x.contiguous(memory_format=torch.channels_last)


def centre_within(images: Tensor, size: int, stored: int) -> Tensor:
    """`centre` for squares that need not be `stored` px wide: the same part of the image, in s x s px.

    Args:
        images: (B, S, S, C) uint8.
        size: s, px.
        stored: side of the squares that `centre` would crop s px from, px.

    Returns:
        (B, C, s, s) float32 in [0, 1].
    """
    side = images.shape[1]
    if side == stored:
        return centre(images, size)
    part = round(side * size / stored)
    start = first_of_centre(side, part)
    boxes = np.tile(np.array([start, start, part, part]), (len(images), 1))
    return resized_crop(images, boxes, np.zeros(len(images), dtype=bool), size)


def crop_boxes(u: Floats, side: int, crop_min: float, crop_max: float = 1.0) -> NDArray[np.int64]:
    """Boxes of RandomResizedCrop, exactly: the first of ten tries that fits, else the whole (square) image.

    The area of a try is uniform in [crop_min, crop_max] of the image. Its aspect ratio is log-uniform in
    3/4..4/3.

    Args:
        u: (B, 22) uniform draws: ten areas, ten ratios, two for the position.
        side: S, px.
        crop_min: smallest share of the area, above 0 to 1.
        crop_max: largest share of the area, from crop_min to 1.

    Returns:
        (B, 4) top, left, height, width in px.
    """
    area = side * side * (crop_min + (crop_max - crop_min) * u[:, :TRIES])
    low, high = math.log(RATIO[0]), math.log(RATIO[1])
    ratio = np.exp(low + (high - low) * u[:, TRIES : 2 * TRIES])
    width, height = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
    fits = (width > 0) & (width <= side) & (height > 0) & (height <= side)
    first = fits.argmax(axis=1)[:, None]
    some = fits.any(axis=1)
    h = np.where(some, np.take_along_axis(height, first, axis=1)[:, 0], side)
    w = np.where(some, np.take_along_axis(width, first, axis=1)[:, 0], side)
    top, left = np.floor(u[:, -2] * (side - h + 1)), np.floor(u[:, -1] * (side - w + 1))
    return np.stack([top, left, h, w], axis=1).astype(np.int64)


def resized_crop(images: Tensor, boxes: NDArray[np.int64], flip: NDArray[np.bool_], size: int) -> Tensor:
    """Crop, resize with antialiasing, and mirror.

    Args:
        images: (B, S, S, C) uint8.
        boxes: (B, 4) top, left, height, width in px.
        flip: (B,) whether to mirror left and right.
        size: s, px.

    Returns:
        (B, 3, s, s) float32 in [0, 1].
    """
    one_by_one = images.device.type == "cpu" and images.shape[1] >= ONE_BY_ONE
    return (_crop_each if one_by_one else _crop_all)(images, boxes, flip, size)


def _crop_all(images: Tensor, boxes: NDArray[np.int64], flip: NDArray[np.bool_], size: int) -> Tensor:
    """Compute Wy pixels Wx^T for each image and channel."""
    pixels = _planes(images)
    B, C, S, _ = pixels.shape
    wy = _weights(boxes[:, 0], boxes[:, 2], np.zeros_like(flip), S, size, pixels.device)
    wx = _weights(boxes[:, 1], boxes[:, 3], flip, S, size, pixels.device)
    x = torch.bmm(pixels.reshape(B, C * S, S), wx.transpose(1, 2)).view(B, C, S, size)
    return torch.matmul(wy[:, None], x)


def _crop_each(images: Tensor, boxes: NDArray[np.int64], flip: NDArray[np.bool_], size: int) -> Tensor:
    """Like `_crop_all`, but with values rounded to whole uint8 values."""
    x = np.empty((len(images), images.shape[3], size, size), dtype=np.float32)
    for i, (top, left, height, width) in enumerate(boxes.tolist()):
        part = images[i : i + 1, top : top + height, left : left + width].permute(0, 3, 1, 2)
        resized = F.interpolate(part, (size, size), mode="bilinear", antialias=True)[0].numpy()
        np.divide(resized[:, :, ::-1] if flip[i] else resized, np.float32(255), out=x[i])
    return torch.from_numpy(x)


def affine_maps(u: Floats, config: Views) -> Floats:
    """Maps from a point of the view to its source: rotation, shear, zoom, stretch and shift about the centre.

    Args:
        u: (B, 6) uniform draws: rotation, shear, zoom, stretch, shift in x, shift in y.
        config: `rotate` and `shear` in degrees in both directions, `zoom` and `stretch` as log-uniform
            factors in both directions, `shift` in both directions as a share of the side.

    Returns:
        (B, 2, 3) affine maps of coordinates from -1 to 1, x first.
    """
    v = 2 * u - 1
    angle, slant = np.radians(v[:, 0] * config.rotate), np.tan(np.radians(v[:, 1] * config.shear))
    zoom, stretch = np.exp(v[:, 2] * math.log(config.zoom)), np.exp(v[:, 3] * math.log(config.stretch) / 2)
    sx, sy, cos, sin = zoom * stretch, zoom / stretch, np.cos(angle), np.sin(angle)
    x = np.stack([sx * cos, sx * (slant * cos - sin), 2 * config.shift * v[:, 4]], axis=1)
    y = np.stack([sy * sin, sy * (slant * sin + cos), 2 * config.shift * v[:, 5]], axis=1)
    return np.stack([x, y], axis=1)


def affine_crop(
    pixels: Tensor,
    boxes: NDArray[np.int64],
    flip: NDArray[np.bool_],
    maps: Floats,
    size: int,
    uncovered: Literal["black", "edge"] = "black",
) -> Tensor:
    """Map, crop, resize and mirror in one bilinear sampling.

    Args:
        pixels: (B, C, S, S) float32.
        boxes: (B, 4) top, left, height, width in px, of the mapped image.
        flip: (B,) whether to mirror left and right.
        maps: (B, 2, 3), see `affine_maps`.
        size: s, px.
        uncovered: what comes from outside the image: black, or the nearest pixel of its edge.

    Returns:
        (B, 3, s, s) float32.
    """
    side = pixels.shape[-1]
    top, left, h, w = boxes.T / side
    # In coordinates from -1 to 1, a point (u, v) of the view is (zx u + cx, zy v + cy) in the box.
    # The affine map is applied to that point.
    centre = np.stack([2 * left + w - 1, 2 * top + h - 1], axis=1)
    scale = np.stack([np.where(flip, -w, w), h], axis=1)
    linear = maps[:, :, :2] * scale[:, None]
    offset = (maps[:, :, :2] @ centre[:, :, None])[:, :, 0] + maps[:, :, 2]
    theta = _tensor(np.concatenate([linear, offset[:, :, None]], axis=2), pixels.device)
    grid = F.affine_grid(theta, [*pixels.shape[:2], size, size], align_corners=False)
    padding = "border" if uncovered == "edge" else "zeros"
    return F.grid_sample(pixels, grid, padding_mode=padding, align_corners=False)


def jitter_factors(u: Floats, strength: float) -> Floats:
    """SimCLR's ranges for the strength s of the colour jitter.

    Brightness, contrast and saturation lie in 1 -+ 0.8 s, but not below 0. Hue lies in -+0.2 s of a turn.

    Args:
        u: (B, 4) uniform draws.
        strength: s.

    Returns:
        (B, 4) factors in the order BRIGHTNESS, CONTRAST, SATURATION, HUE.
    """
    low = np.array([max(0.0, 1 - 0.8 * strength)] * 3 + [-0.2 * strength])
    high = np.array([1 + 0.8 * strength] * 3 + [0.2 * strength])
    factors: Floats = low + (high - low) * u
    return factors


def colour_jitter(x: Tensor, factors: Floats, order: NDArray[np.int64]) -> Tensor:
    """Change brightness, contrast, saturation and hue of x in place, and clip to [0, 1] after each.

    The first three are x' = f x + (1 - f) t. Here t is black, the image's mean grey, or each pixel's grey.

    Args:
        x: (B, 3, s, s) float32 in [0, 1]. It is overwritten.
        factors: (B, 4), as `jitter_factors` returns them.
        order: (B, 4). Each row is the order of the four operations on that image.

    Returns:
        x.
    """
    rows = np.arange(len(x))
    for operation in order.T:
        hue = operation == HUE
        if not hue.all():
            _blend(x, operation, np.where(hue, 1.0, factors[rows, operation]))
        _change(x, np.flatnonzero(hue), partial(adjust_hue, turn=factors[hue, HUE]))
    return x


def _blend(x: Tensor, operation: NDArray[np.int64], f: Floats) -> None:
    """Turn x into f x + (1 - f) t, clipped. The operation of each row sets t: black, mean grey, or grey."""
    a, to_mean, to_grey = _tensor(
        np.stack([f, np.where(operation == CONTRAST, 1 - f, 0), np.where(operation == SATURATION, 1 - f, 0)]),
        x.device,
    ).view(3, -1, 1, 1, 1)
    if ((operation == CONTRAST) | (operation == SATURATION)).any():
        g = grey(x)
        t = torch.addcmul(to_mean * g.mean(dim=(2, 3), keepdim=True), to_grey, g)
        torch.addcmul(t, a, x, out=x)
    else:
        x.mul_(a)
    x.clamp_(0, 1)


def adjust_hue(x: Tensor, turn: Floats) -> Tensor:
    """Shift the hue of the HSV colour.

    Let h be the hue in sixths of a turn, in [0, 6). A channel is min + (max - min) clip(v) with v clipped to
    [0, 1]: |h - 3| - 1 for red, 2 - |h - 2| for green, 2 - |h - 4| for blue (Smith, SIGGRAPH 1978, in closed
    form).

    Args:
        x: (B, 3, s, s) float32 in [0, 1].
        turn: (B,) shift in turns, -0.5 to 0.5.

    Returns:
        (B, 3, s, s) float32 in [0, 1].
    """
    r, g, b = x.unbind(1)
    largest = torch.maximum(g, b)
    low = torch.minimum(torch.minimum(r, g), b)
    # Marks the highest channel with 0 or 1 in float32. On CPUs, bool masks are several times slower.
    red = torch.ge(r, largest, out=torch.empty_like(r))
    green = torch.ge(g, b, out=torch.empty_like(r)).mul_(1 - red)
    blue = (1 - red).sub_(green)
    chroma = torch.maximum(r, largest).sub_(low)
    h = (g - b).mul_(red).addcmul_(green, b - r).addcmul_(blue, r - g)
    h.div_(chroma.clamp(min=1e-12))  # without colour all differences are 0, and so is the hue
    h.add_(green, alpha=2).add_(blue, alpha=4)
    h.add_(_tensor(6 * turn, x.device).view(-1, 1, 1))
    h.sub_((h / 6).floor_(), alpha=6)
    out = torch.empty_like(x)
    torch.addcmul(low, chroma, (h - 3).abs_().sub_(1).clamp_(0, 1), out=out[:, 0])
    for channel, n in ((1, 2), (2, 4)):
        torch.addcmul(low, chroma, (h - n).abs_().neg_().add_(2).clamp_(0, 1), out=out[:, channel])
    return out


def grey(x: Tensor) -> Tensor:
    """Luma. (B, 3, s, s) -> (B, 1, s, s)."""
    luma = x[:, :1] * GREY[0]
    return luma.add_(x[:, 1:2], alpha=GREY[1]).add_(x[:, 2:], alpha=GREY[2])


def blur_radius(size: int) -> int:
    """SimCLR's rule: a kernel of about a tenth of the side.

    224 px: radius 11 (23 taps). 32 px: radius 1. Below 20 px: radius 0, no blur.
    """
    return size // 10 // 2


def gaussian_blur(x: Tensor, sigma: Floats, radius: int) -> Tensor:
    """Blur with a separable Gaussian. Each image has its own sigma and is mirrored at the border.

    Args:
        x: (B, 3, s, s) float32.
        sigma: (B,) px, above 0.
        radius: the kernel has 2 radius + 1 taps.

    Returns:
        (B, 3, s, s) float32.
    """
    offset = np.arange(radius + 1)
    taps = np.exp(-0.5 * (offset / sigma[:, None]) ** 2)
    taps[offset > np.ceil(SIGMAS * sigma)[:, None]] = 0
    taps /= taps[:, :1] + 2 * taps[:, 1:].sum(axis=1, keepdims=True)
    radius = min(radius, math.ceil(SIGMAS * sigma.max(initial=0)))  # taps beyond this are exactly 0
    w = _tensor(taps.T[: radius + 1], x.device).view(radius + 1, -1, 1, 1, 1)
    for dim, padding in ((3, (radius, radius, 0, 0)), (2, (0, 0, radius, radius))):
        side = x.shape[dim]
        padded = F.pad(x, padding, mode="reflect")
        x, both = x * w[0], torch.empty_like(x)
        for d in range(1, radius + 1):
            torch.add(padded.narrow(dim, radius - d, side), padded.narrow(dim, radius + d, side), out=both)
            x.addcmul_(both, w[d])
    return x


def solarize(x: Tensor) -> Tensor:
    """Invert values of 0.5 and above. (B, 3, s, s) in [0, 1] -> the same."""
    return torch.where(x >= 0.5, 1 - x, x)


def _weights(
    start: NDArray[np.int64],
    length: NDArray[np.int64],
    mirrored: NDArray[np.bool_],
    side: int,
    size: int,
    device: torch.device,
) -> Tensor:
    """(B, s, S) weights that resize to `size` from pixel `start`: a triangle as wide as an output pixel."""
    scale = length / size
    place = np.arange(size) + 0.5
    centres = start[:, None] + scale[:, None] * np.where(mirrored[:, None], size - place, place)
    ends = np.stack([start, start + length, np.maximum(scale, 1)])
    first, last, width = _tensor(ends, device).view(3, -1, 1, 1)
    pixel = torch.arange(side, device=device, dtype=torch.float32) + 0.5
    w = (pixel - _tensor(centres, device)[:, :, None]).abs_().div_(-width).add_(1).clamp_(min=0)
    w *= (pixel > first) & (pixel < last)
    w /= w.sum(dim=2, keepdim=True)
    return w


def _planes(images: Tensor) -> Tensor:
    """(B, S, S, C) uint8 -> (B, C, S, S) float32 in [0, 1], contiguous."""
    planes = torch.empty(len(images), images.shape[3], *images.shape[1:3], device=images.device)
    torch.div(images.permute(0, 3, 1, 2), 255, out=planes)
    return planes


def _change(x: Tensor, rows: NDArray[np.int64], change: Callable[[Tensor], Tensor]) -> None:
    if len(rows) == len(x):
        x.copy_(change(x))
    elif len(rows) and x.device.type == "cpu":  # numpy gathers and scatters rows several times faster
        y = x.numpy()
        y[rows] = change(torch.from_numpy(y[rows])).numpy()
    elif len(rows):
        at = torch.from_numpy(rows).to(x.device)
        x.index_copy_(0, at, change(x.index_select(0, at)))


def _normal(draws: Draws, name: str, shape: torch.Size, device: torch.device) -> Tensor:
    """(B, *shape) standard normal values, made from uniform draws by the Box-Muller transform."""
    n = shape.numel()
    u = draws.uniform(name, n + n % 2).reshape(len(draws.index), 2, -1)
    radius, angle = np.sqrt(-2 * np.log1p(-u[:, 0])), 2 * math.pi * u[:, 1]
    values = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)[:, :n]
    return _tensor(values, device).view(-1, *shape)


def _tensor(values: Floats, device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).to(device, non_blocking=True)
