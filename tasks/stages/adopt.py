"""Adopt: a network from elsewhere becomes a checkpoint of this store, named by its content."""

from __future__ import annotations

import shutil
from pathlib import Path

from data.store import file_sha256
from tasks.stage import Job, Outcome, Request, Stage, require

STAGE = Stage(name="adopt", kind="checkpoint", version=1, process="plain")

_FILES = ("model.safetensors", "model.json")


def plan(folder: Path) -> Request:
    """Ask for the checkpoint whose files lie in a folder.

    Args:
        folder: with model.safetensors and model.json; log.parquet is taken along if it is there.
    """
    content = {name: file_sha256(folder / name) for name in _FILES}
    return STAGE.request(settings={"sha256": content}, outside={"folder": str(folder)})


def build(job: Job) -> Outcome:
    """Copy, and see that the copies are what was asked for."""
    from data.checkpoints import read_arrays
    from data.schemas import LOG
    from data.tables import write_table

    folder = Path(job.request.outside["folder"])
    for name, sha256 in job.settings["sha256"].items():
        shutil.copyfile(folder / name, job.out / name)
        require(file_sha256(job.out / name) == sha256, f"{folder / name} changed while it was copied; try again")
    if (folder / "log.parquet").exists():
        shutil.copyfile(folder / "log.parquet", job.out / "log.parquet")
    else:
        write_table(job.out / "log.parquet", {name: () for name in LOG.names}, LOG)
    arrays = read_arrays(job.out / "model.safetensors")
    return Outcome(rows=sum(array.size for array in arrays.values()))
