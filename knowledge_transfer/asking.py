"""Ask a model about images, or for its export. The child process does the work.

Images and answers pass through a folder.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from knowledge_transfer._child import CHILD
from knowledge_transfer.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from pandas import DataFrame

Images: TypeAlias = "str | os.PathLike[str] | Iterable[Any] | Any"
"""A path, an array of pixels, or several of one kind."""
EXPORTED = (
    *("format", "file", "refused", "accuracy", "low", "high", "difference", "agreement"),
    *("bytes", "rate_one_core", "rate"),
)
"""Columns of the result of `export`."""


def predict(model: Path, images: Images, *, top: int, every: bool) -> DataFrame:
    """See `Model.predict`."""
    import pandas as pd

    with tempfile.TemporaryDirectory(prefix="knowledge-transfer-") as to:
        _ask(model, images, to, top=top, every=every, embed=False)
        return pd.read_parquet(Path(to) / "answers.parquet").drop(columns="source")


def embed(model: Path, images: Images) -> NDArray[np.float32]:
    """See `Model.embed`."""
    import numpy as np

    with tempfile.TemporaryDirectory(prefix="knowledge-transfer-") as to:
        _ask(model, images, to, top=1, every=False, embed=True)
        vectors: NDArray[np.float32] = np.load(Path(to) / "vectors.npy")
        return vectors


def description(model: Path) -> dict[str, Any]:
    """What an exported file says of itself. See `Model.description`."""
    found: dict[str, Any] = CHILD.ask("describe", model=str(model))
    return found


def export(
    run: Path, to: str | os.PathLike[str], formats: list[str] | None, max_drop: float | None
) -> DataFrame:
    """See `Run.export`."""
    import pandas as pd

    chosen = None if formats is None else list(formats)
    rows = CHILD.ask("export", run=str(run), to=os.fspath(to), formats=chosen, max_drop=max_drop)
    return pd.DataFrame(rows, columns=list(EXPORTED))


def _ask(model: Path, images: Images, to: str, *, top: int, every: bool, embed: bool) -> None:
    words = _words(images)
    if words is None:
        _save(images, Path(to))
    CHILD.ask("predict", model=str(model), words=words, to=to, top=top, all=every, embed=embed)


def _words(images: Images) -> list[str] | None:
    """The paths, or None if the images are pixels.

    Raises:
        UserError: there are none, or paths and pixels are mixed.
    """
    if isinstance(images, str | os.PathLike):
        return [os.fspath(images)]
    if _is_pixels(images):
        return None
    if not isinstance(images, list | tuple):
        raise UserError(
            f"images: a {type(images).__name__} is neither a path nor pixels, nor a list of these; "
            "give a list, such as list(images)"
        )
    if not images:
        raise UserError("images: the list is empty; give at least one path or array")
    paths = [isinstance(each, str | os.PathLike) for each in images]
    if all(paths):
        return [os.fspath(each) for each in images]
    wrong = next((each for each in images if not _is_pixels(each)), None)
    if any(paths) or wrong is not None:
        kinds = sorted({type(each).__name__ for each in images})
        raise UserError(f"images: a list of {', '.join(kinds)}; give only paths, or only arrays of pixels")
    return None


def _is_pixels(value: Any) -> bool:
    return hasattr(value, "__array__") or hasattr(value, "__array_interface__")


def _save(images: Any, to: Path) -> None:
    """Write pixels for the child: images.npy if all have one shape, else images.npz.

    Raises:
        UserError: they are not uint8, or have a wrong number of dimensions.
    """
    import numpy as np

    if isinstance(images, list | tuple):
        several = [_checked(np.asarray(each), (2, 3)) for each in images]
    else:
        array = _checked(np.asarray(images), (2, 3, 4))
        if array.ndim == 4:
            if not len(array):
                raise UserError("images: the array is empty; give at least one image")
            np.save(to / "images.npy", array)
            return
        several = [array]
    if len({each.shape for each in several}) == 1:
        np.save(to / "images.npy", np.stack(several))
    else:
        np.savez(to / "images.npz", *several)


def _checked(array: NDArray[Any], dimensions: tuple[int, ...]) -> NDArray[Any]:
    if array.dtype != "uint8":
        raise UserError(
            f"images: pixels are {array.dtype}, not uint8; give values from 0 to 255 as uint8, "
            "or files if they have more than 8 bits"
        )
    if array.ndim not in dimensions:
        raise UserError(
            f"images: an array of shape {array.shape}; an image is (height, width, channels) or "
            "(height, width), and several in one array are (N, height, width, channels)"
        )
    return array
