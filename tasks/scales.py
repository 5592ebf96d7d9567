"""Whether the networks are tested at the scale that they are trained at.

A test image is shown at its own scale: the network sees its central square of data.image_size px. In
training, a random crop is resized to the side of a view. This changes the size of objects by the factor

    magnification = side of the view / (side of the stored image * sqrt(mean share of the area in a crop))

Its inverse says how large objects are in the test, relative to their mean size in training (Touvron et al.
2019, "Fixing the train-test resolution discrepancy", section 3). Random zooms don't count, because they go in
as often as out. Small crops don't count, because a network that sees them always sees large crops as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from data.errors import ConfigError
from data.preprocessing import stored_size
from models.configs.shared import Sized, Views
from tasks.config import Config

NOTED = (0.7, 1.25)
"""A run notes a ratio outside this range. docs/decisions/0017-scales-and-kinds.md has the measurements."""
REFUSED = (0.5, 2.0)
"""A run with a ratio outside this range is refused."""


def ratio(views: Views, image_size: int) -> float:
    """The size of an object in the test, divided by its mean size in training.

    Args:
        views: the views of a training.
        image_size: data.image_size, px.

    Returns:
        The ratio, above 0. It is above 1 if objects are larger in the test.
    """
    area = (views.crop_min + views.crop_max) / 2
    return stored_size(image_size) * math.sqrt(area) / views.side(image_size)


def refuse(config: Config) -> None:
    """Check that no training sees objects at a scale that is far from the test's.

    Raises:
        ConfigError: a training does. The message has the ratio, and a view size that fits.
    """
    found = [phrase for key, views in _trainings(config) if (phrase := _phrase(config, key, views, REFUSED))]
    if found:
        raise ConfigError("; ".join(found))


def notes(config: Config) -> list[str]:
    """A sentence on each training whose ratio is outside `NOTED`, with the ratio and a fitting view size."""
    found = (_phrase(config, key, views, NOTED) for key, views in _trainings(config))
    return [phrase for phrase in found if phrase]


def _trainings(config: Config) -> Iterator[tuple[str, Views]]:
    """Yield (key of the section, views) of each training whose network is later tested on whole images."""
    sections: dict[str, Sized] = {"pretext": config.pretext}
    if config.transfers:
        sections["transfer"] = config.transfer
    if config.until in ("finetune", "distill"):
        sections["finetune"] = config.finetune
    if config.until == "distill":
        sections["distill"] = config.distill
    if "nonlinear" in config.evaluate.protocols:
        sections["evaluate.nonlinear"] = config.evaluate.nonlinear
    return ((key, views) for key, views in sections.items() if isinstance(views, Views))


def _phrase(config: Config, key: str, views: Views, limits: tuple[float, float]) -> str:
    """Say how a training's scale is off, and which view size fits. Empty if the ratio is within `limits`."""
    size = config.data.image_size
    factor = ratio(views, size)
    if limits[0] <= factor <= limits[1]:
        return ""
    share = views.side(size) / size * factor  # with it, the ratio is 1
    way = f"set {key}.view_size={min(1.0, share):.2g}, a share of data.image_size"
    if factor < 1:
        way += f", or a {key}.crop_max of up to 1" if views.crop_max < 1 else f", or a larger {key}.crop_min"
    return (
        f"{key}.view_size: training crops {views.crop_min:g} to {views.crop_max:g} of an image and shows it "
        f"at {views.side(size)} px, so objects in the test at data.image_size={size} have {factor:.2f} times "
        f"the size that they have in training ({limits[0]:g} to {limits[1]:g} fits); {way}"
    )
