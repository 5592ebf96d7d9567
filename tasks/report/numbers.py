"""How the report writes numbers. Shares and times are in `tasks.phrases`."""

from __future__ import annotations

from math import isfinite

from tasks.phrases import UNITS


def narrow(text: str) -> str:
    """Replace each space by a narrow one that does not break, so that a number stays on one line."""
    return text.replace(" ", "\u202f")


def count(value: int) -> str:
    """1437 -> `1 437`."""
    return f"{value:,}".replace(",", " ")


def points(difference: float) -> str:
    """Percentage points with a sign: 0.057 -> `+5.7`, -0.012 -> `−1.2`."""
    text = f"{100 * difference:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def bits(value: int) -> str:
    """Bits as bytes: 800 -> `100 bytes`, 8e6 -> `1 MB`."""
    size = value / 8
    if size < 999.5:
        return f"{size:.0f} bytes"
    return f"{size / 1e3:.3g} kB" if size < 999.5e3 else f"{size / 1e6:.4g} MB"


def magnitude(value: float) -> str:
    """Three digits and a prefix: 0 -> `0`, 1234 -> `1.23 k`, 5.6e7 -> `56 M`, 4.1e9 -> `4.1 G`."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g}"


def amount(rows: int, kind: str) -> str:
    """What an artifact of a kind holds: `1 437 images`, `5.33 M parameters`, `1 row`."""
    unit = UNITS.get(kind, "rows")
    text = magnitude(rows) if unit == "parameters" else count(rows)
    # "5.33 M parameters", but "640 parameters" and "1 label"
    return f"{text} {unit.removesuffix('s') if rows == 1 else unit}"


def number(value: float) -> str:
    """Four significant digits; `nan` and `inf` by name."""
    return f"{value:.4g}".replace("-", "−") if isfinite(value) else str(value)
