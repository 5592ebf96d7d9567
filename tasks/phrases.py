"""Format shares and durations for the terminal, the run's page and the report."""

from __future__ import annotations

UNITS = {
    "checkpoint": "parameters",
    "manifest": "images",
    "clusters": "clusters",
    "labels": "labels",
    "export": "files",
    "exported": "classes",
    "map": "images",
}
"""Kind of artifact -> what its `rows` count. They are rows of a table for all other kinds."""


def percent(share: float, digits: int = 1) -> str:
    """0.9124 -> `91.2 %`."""
    return f"{100 * share:.{digits}f} %"


LITTLE = 0.05
"""Share of the CPU that other programs may take without being mentioned."""


def under_load(taken: float) -> str:
    """Say how much of the CPU other programs took (0 to 1) during a measurement; nothing if it was little."""
    if taken < LITTLE:
        return ""
    return f"measured under load: at least {percent(taken, 0)} of the CPU was taken by other programs"


def duration(seconds: float) -> str:
    """0.04 -> `40 ms`, 12.3 -> `12.3 s`, 200 -> `3 min 20 s`, 7500 -> `2 h 05 min`."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60:02d} min"


def together(real: float, binary: float) -> float:
    """Multiply-adds of real numbers and of signs in one figure. A word holds 64 signs (Bi-Real net)."""
    return real + binary / 64
