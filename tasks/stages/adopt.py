"""Adopt: copies a network from another folder into the store as a checkpoint named by its content."""

from __future__ import annotations

import shutil
from pathlib import Path

from data.files import file_sha256
from models.configs.shared import revision_of
from tasks.job import Job
from tasks.stage import Outcome, Request, Stage, require

STAGE = Stage(name="adopt", kind="checkpoint", version=1, process="plain")

_FILES = ("model.safetensors", "model.json")


def plan(folder: Path) -> Request:
    """Request a checkpoint from the files in a folder.

    Args:
        folder: folder with model.safetensors and model.json. If it has a log.parquet, that is copied too.

    Raises:
        ArtifactError: model.json can't be read.
    """
    from data.checkpoints import read_description

    content = {name: file_sha256(folder / name) for name in _FILES}
    revision = revision_of(read_description(folder).get("backbone", ""))  # features must be computed again
    return STAGE.request(settings={"sha256": content, **revision}, outside={"folder": str(folder)})


def build(job: Job) -> Outcome:
    """Copy the files, and check that the copies have the requested content."""
    from data.checkpoints import read_arrays
    from data.schemas import LOG
    from data.tables import write_table

    folder = Path(job.request.outside["folder"])
    for name, sha256 in job.settings["sha256"].items():
        shutil.copyfile(folder / name, job.out / name)
        require(
            file_sha256(job.out / name) == sha256, f"{folder / name} changed while it was copied; try again"
        )
    if (folder / "log.parquet").exists():
        shutil.copyfile(folder / "log.parquet", job.out / "log.parquet")
    else:
        write_table(job.out / "log.parquet", {name: () for name in LOG.names}, LOG)
    arrays = read_arrays(job.out / "model.safetensors")
    return Outcome(rows=sum(array.size for array in arrays.values()))
