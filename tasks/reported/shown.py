"""Reads images that a report shows."""

from __future__ import annotations

from typing import Any

import numpy as np

from data import images, schemas
from data.preprocessing import stored_size
from data.tables import read_table
from tasks.job import Job
from tasks.report.sheets import colours

SHEET_IMAGE = 64
"""Side of the images on contact sheets, px, unless the stored ones are smaller."""


def side(job: Job) -> int:
    """Side of the images that a report shows, px."""
    return min(SHEET_IMAGE, stored_size(job.settings["config"]["data"]["image_size"]))


def pixels(job: Job, wanted: list[int]) -> dict[int, tuple[str, Any]]:
    """Read some of the run's images: ascending indices -> index -> (uri, (h, w, 3) uint8)."""
    if not wanted:
        return {}
    table = read_table(job.path("manifest") / "images.parquet", schemas.MANIFEST)
    some = table.take(np.searchsorted(table["index"].to_numpy(), wanted))
    where = {role: place for role, place in job.request.outside["own"].items() if place}
    reading = images.reading_of(table, job.meta("manifest"))
    opened = images.open_images(
        some, where, side(job), cache=job.store.cache("sheets"), reading=reading, checked=job.store.checked
    )
    found = colours(opened.read(np.arange(len(wanted))))
    return dict(zip(wanted, zip(some["uri"].to_pylist(), found, strict=True), strict=True))
