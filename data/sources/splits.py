"""Names of splits, as data sets write them in folders, in file names and in columns."""

from __future__ import annotations

from collections.abc import Set

from data.types import Split

_NAMES = {
    "train": ("train", "training"),
    "test": ("test", "testing"),
    "validation": ("val", "valid", "validation", "dev"),
    "unlabelled": ("unlabelled", "unlabeled", "unsup", "unsupervised"),
}
NAMES: dict[str, str] = {name: split for split, names in _NAMES.items() for name in names}
"""Name of a folder, file or value, in lower case -> train, validation, test or unlabelled."""


def split_of(name: str) -> str | None:
    """The split that a name means (train, validation, test or unlabelled), or None."""
    return NAMES.get(name.strip().lower())


def serve(role: Split, there: Set[str]) -> str | None:
    """The split that serves a role, out of the splits that a source has.

    Test is served by test, or else by validation. Unlabelled is served by unlabelled, or else by train. The
    result is None if no split serves the role.
    """
    order = {"train": ("train",), "test": ("test", "validation"), "unlabelled": ("unlabelled", "train")}
    return next((split for split in order[role] if split in there), None)


def beside_train(there: Set[str]) -> tuple[Split, ...]:
    """The roles besides train for which a source has a split of their own."""
    roles: tuple[Split, ...] = ("unlabelled", "test")
    return tuple(role for role in roles if serve(role, there) not in (None, "train"))
