"""Words for numbers of things."""

from __future__ import annotations


def counted(number: int, one: str, many: str) -> str:
    """A number and what it counts: `counted(1, "image lies", "images lie")` is "1 image lies".

    Args:
        number: how many, 0 or more.
        one: the words that follow 1.
        many: the words that follow any other number.
    """
    return f"{number:,} {one if number == 1 else many}"
