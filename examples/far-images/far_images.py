"""Far images: how many images lie far from their cluster's centroid, by a factor of your choice."""

from __future__ import annotations

from knowledge_transfer.plugins import (
    Artifact,
    Config,
    Context,
    Field,
    Frozen,
    Inputs,
    Job,
    Leaf,
    Outcome,
    Request,
    Size,
)


class Options(Frozen):
    """What a user may set: `evaluate.options={far-images: {times: 9}}`."""

    times: float = Field(
        4.0, gt=1, description="How many times the median squared distance is far (above 1)."
    )


STAGE = Leaf("far_images", "scores", version=1, process="plain", reads=("assignments",), options=Options)


def plan(config: Config, assignments: Artifact) -> Request:
    """Ask for the share of images that lie far from their centroid."""
    settings = config.evaluate.options_of(STAGE.protocol).model_dump()
    return STAGE.request(settings=settings, inputs={"assignments": assignments}, seed=config.seed)


def size(run: Context, request: Request, inputs: Inputs) -> Size:
    """One row of scores."""
    return Size(rows=1, bytes=3e3)


def build(job: Job) -> Outcome:
    """Compare each squared distance with the median of all."""
    import numpy as np

    from knowledge_transfer.plugins import column, read_table, write_scores

    distance, times = column(read_table(job.path("assignments")), "distance"), job.settings["times"]
    share, n = float((distance > times * np.median(distance)).mean()), len(distance)
    row = (STAGE.protocol, "teacher", "share", "train", f"times={times:g}", share, job.seed, n)
    return Outcome(rows=write_scores(job, [row]))
