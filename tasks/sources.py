"""Where a stage's images are, and which of them it reads."""

from __future__ import annotations

from typing import Literal

from data.types import Split
from tasks.config import Config

Part = Literal["train", "test"]
SPLITS_OF: dict[Part, tuple[Split, ...]] = {"train": ("train", "unlabelled"), "test": ("test",)}
"""Part of the features -> the splits of the manifest in it."""


def sources(config: Config, only: str | None = None) -> dict[str, str | None]:
    """Role -> source of the images.

    Args:
        config: the run's configuration.
        only: another source to use instead of the run's (`cluster.data` or `assign.data`).
    """
    if only is not None:
        return {"train": only, "unlabelled": None, "test": None}
    return {"train": config.data.train, "unlabelled": config.data.unlabelled, "test": config.data.test}


def voc_sources(voc: str) -> dict[str, str | None]:
    """Role -> source of the images of a folder in VOC's layout.

    If the folder lists no test set, the test source is None and a fifth of the images is held out for the
    test.

    Raises:
        UserError: the folder can't be reached or is not in VOC's layout.
    """
    from data.voc import VocFolder

    sets = VocFolder(voc, voc.removeprefix("voc:")).sets("test")
    return {"train": voc, "unlabelled": None, "test": None if sets is None else voc}
