"""Where a stage's images are, and which of them it reads."""

from __future__ import annotations

from typing import Literal
from urllib.parse import quote

from data.secrets import mask, reveal
from data.types import Split
from tasks.config import Config, Data

Part = Literal["train", "test"]
SPLITS_OF: dict[Part, tuple[Split, ...]] = {"train": ("train", "unlabelled"), "test": ("test",)}
"""Part of the features -> the splits of the manifest in it."""


def sources(config: Config, only: str | None = None) -> dict[str, str | None]:
    """Role -> source of the images.

    Args:
        config: the run's configuration.
        only: another source to use instead of the run's (`cluster.data` or `assign.data`).
    """
    data = config.data
    if only is not None:
        return {"train": _with_columns(data, only), "unlabelled": None, "test": None}
    places = {"train": data.train, "unlabelled": data.unlabelled, "test": data.test}
    return {role: _with_columns(data, place) for role, place in places.items()}


def _with_columns(data: Data, source: str | None) -> str | None:
    """A Parquet source with the columns that the configuration names, unless the source names some itself."""
    columns = {"image": data.image_column, "label": data.label_column}
    named = "&".join(f"{name}={quote(column)}" for name, column in columns.items() if column is not None)
    if source is None or not named or not source.startswith("parquet:") or "?" in source.rpartition("/")[2]:
        return source
    return mask(f"{reveal(source)}?{named}")


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
