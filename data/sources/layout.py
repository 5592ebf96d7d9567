"""What the sub-folders of a folder of images mean: classes, splits, or nothing.

This looks at paths only. Every guess is put into a sentence that the user reads, with the line that corrects
it.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from data.sources.splits import split_of
from data.wording import counted

MEANINGS = ("auto", "classes", "splits", "none")
"""What a user may say that sub-folders are."""

_STRAY_SHARE, _STRAY_COUNT = 0.1, 3
"""Images beside class folders are strays if they are a minority, and at most this share or this many."""

_DATE = re.compile(r"(19|20)\d\d([-_. ]?(0[1-9]|1[0-2])([-_. ]?(0[1-9]|[12]\d|3[01]))?)?([-_ ].*)?")
_CAMERA = re.compile(r"\d{3}[A-Z0-9_]{5}|DCIM|Camera Roll", re.IGNORECASE)
"""Names of folders that cameras write (JEITA's design rule for camera file systems: `100CANON`)."""


@dataclass(frozen=True)
class Classes:
    """The class folder of each image.

    Attributes:
        names: class of each path, or None.
        left_out: position in the paths -> why the image is left out.
        guesses: sentences for the user.
    """

    names: list[str | None]
    left_out: dict[int, str] = field(default_factory=dict)
    guesses: tuple[str, ...] = ()


def composed(name: str) -> str:
    """A name in Unicode's composed form (NFC). macOS writes the decomposed form into archives."""
    return unicodedata.normalize("NFC", name)


def splits_of(paths: Sequence[str]) -> dict[str, str]:
    """The top folders that are splits -> their split. Empty: the top folders are no splits.

    They are splits if all of them are named so and hold sub-folders. An unlabelled one may hold images
    directly.
    """
    tops = {path.partition("/")[0] for path in paths if "/" in path}
    deep = {path.partition("/")[0] for path in paths if path.count("/") > 1}
    found = {top: split for top in tops if (split := split_of(top)) is not None}
    holds = all(top in deep or split == "unlabelled" for top, split in found.items())
    learned = set(found.values()) - {"unlabelled"}
    return found if learned and len(found) == len(tops) and holds else {}


def classes_of(paths: Sequence[str], meaning: str = "auto") -> Classes:
    """Decide whether the top folders are classes, and name the class of each image.

    Args:
        paths: paths of the images, relative to the source, with "/" between folders.
        meaning: what the user says that sub-folders are; see `MEANINGS`.
    """
    none: list[str | None] = [None] * len(paths)
    if meaning == "none" or not any("/" in path for path in paths):
        return Classes(none)
    tops = Counter(path.partition("/")[0] for path in paths if "/" in path)
    beside = [position for position, path in enumerate(paths) if "/" not in path]
    loose = len(beside) > max(_STRAY_COUNT, _STRAY_SHARE * len(paths)) or 2 * len(beside) >= len(paths)
    guesses: list[str] = []
    if meaning == "auto":
        if all(_DATE.fullmatch(top) or _CAMERA.fullmatch(top) for top in tops):
            text = (
                f"the sub-folders ({_some(tops)}) are dates or a camera's folders, so they are not taken as "
                "classes: no labels; if they are classes, write folder:PATH?folders=classes"
            )
            return Classes(none, guesses=(text,))
        if loose and len(tops) == 1:
            text = (
                f"{len(beside):,} of {len(paths):,} images are not in a sub-folder, so the only one "
                f"({_some(tops)}) is not taken as a class: no labels; if it is one, write "
                "folder:PATH?folders=classes"
            )
            return Classes(none, guesses=(text,))
        if len(tops) == 1:
            (top,) = tops
            below = _below(paths, top)
            if len(set(below.names) - {None}) > 1:
                return below
    names = [composed(path.partition("/")[0]) if "/" in path else None for path in paths]
    left_out = {}
    if meaning == "auto" and loose:
        guesses.append(
            f"{len(beside):,} of {len(paths):,} images are not in a sub-folder: they are taken as unlabelled "
            "training images. If sub-folders are no classes, write folder:PATH?folders=none"
        )
    elif meaning == "auto":
        left_out = dict.fromkeys(beside, "it lies beside the class folders, so it has no class")
    without = [top for top in tops if split_of(top) == "unlabelled"] if meaning == "auto" else []
    if without and len(without) == len(tops):
        return Classes(none, left_out, (f"the folder {_some(without)} is not taken as a class: no labels",))
    if without:
        unlabelled = {composed(top) for top in without}
        count = sum(tops[top] for top in without)
        names = [None if name in unlabelled else name for name in names]
        guesses.append(
            f"the folder {_some(without)} lies beside class folders: its {count:,} images are taken as "
            "unlabelled training images"
        )
    alike = [top for top in tops if split_of(top) not in (None, "unlabelled")]
    if alike and meaning == "auto":
        why = "they do not hold sub-folders" if len(alike) == len(tops) else "other folders lie beside them"
        guesses.append(
            f"{_some(alike)}: named like splits, but taken as classes, because {why}; to give splits, use "
            "data.train, data.test and data.unlabelled"
        )
    kept = sorted({name for name in names if name is not None})
    if len(kept) < len(tops) - len(without):
        guesses.append("folders whose names differ only in their Unicode form are taken as one class")
    guesses.insert(0, f"sub-folders are taken as classes ({_some(kept)})")
    if left_out:
        first = paths[beside[0]]
        one, many = (
            "image lies beside the class folders and is",
            "images lie beside the class folders and are",
        )
        guesses.append(f"{counted(len(left_out), one, many)} left out, first {first!r}")
    return Classes(names, left_out, tuple(guesses))


def _below(paths: Sequence[str], top: str) -> Classes:
    """The classes inside the only top folder."""
    inner = [position for position, path in enumerate(paths) if "/" in path]
    below = classes_of([paths[position].partition("/")[2] for position in inner])
    names: list[str | None] = [None] * len(paths)
    for position, name in zip(inner, below.names, strict=True):
        names[position] = name
    left_out = {inner[position]: reason for position, reason in below.left_out.items()}
    left_out |= {
        position: "it lies beside the only folder, so it has no class"
        for position in set(range(len(paths))) - set(inner)
    }
    text = f"all images are in one folder, {top!r}, so its sub-folders are looked at"
    return Classes(names, left_out, (text, *below.guesses))


def _some(names: Sequence[str] | Counter[str] | list[str]) -> str:
    ordered = sorted(names)
    return ", ".join(map(repr, ordered[:4])) + (f" … {len(ordered)} in all" if len(ordered) > 4 else "")
