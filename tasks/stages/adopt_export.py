"""Adopt export: copies what `export` wrote into the store, with a description, named by its content."""

from __future__ import annotations

import shutil
from pathlib import Path

from data.files import file_sha256
from models.export.given import contents, told
from tasks.job import Job
from tasks.stage import Outcome, Request, Stage, require

STAGE = Stage(name="adopt_export", kind="exported", version=1, process="plain")
FOLDER = "weights"
"""Name of the copy of a folder. The copy of a file is `model` with the file's suffix."""


def plan(place: Path) -> Request:
    """Request the copy of an exported file or folder.

    Args:
        place: the file or folder, for which `models.export.given.is_exported` is true.
    """
    name = FOLDER if place.is_dir() else f"model{place.suffix}"
    content = {path.name if place.is_dir() else name: file_sha256(path) for path in contents(place)}
    return STAGE.request(settings={"name": name, "sha256": content}, outside={"place": str(place)})


def build(job: Job) -> Outcome:
    """Copy the files, check the copies, and write model.json with what the export says of itself."""
    from data.store import write_json

    place, copy = Path(job.request.outside["place"]), job.out / job.settings["name"]
    folder = copy if place.is_dir() else job.out
    folder.mkdir(exist_ok=True)
    for path, (name, sha256) in zip(contents(place), job.settings["sha256"].items(), strict=True):
        shutil.copyfile(path, folder / name)
        require(file_sha256(folder / name) == sha256, f"{path} changed while it was copied; try again")
    about = told(copy)
    classes = {"class_names": about["classes"], "classes": len(about["classes"])}
    write_json(job.out / "model.json", about["preprocessing"] | classes)
    return Outcome(rows=len(about["classes"]))
