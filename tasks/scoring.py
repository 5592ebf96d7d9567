"""Write scores: one row per measured value."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from data.schemas import SCORES
from data.tables import write_table
from tasks.job import Job


def write_scores(job: Job, rows: Iterable[tuple[Any, ...]]) -> int:
    """Write scores.parquet.

    Args:
        job: the stage's job.
        rows: tuples (evaluation, model, metric, split, setting, value, seed, n). `model` is what was
            measured. A value of clusters or features counts for `teacher`, even if no network was trained.
            `n` is the number of images, or of whatever the value is a mean or a share of.

    Returns:
        The number of rows.
    """
    table = list(rows)
    columns = zip(*table, strict=True) if table else ((),) * len(SCORES.names)
    return write_table(job.out / "scores.parquet", dict(zip(SCORES.names, columns, strict=True)), SCORES)


def write_test_scores(job: Job, evaluation: str, rows: Iterable[tuple[str, str, float]], n: int) -> int:
    """Write scores of the job's model on test images.

    Args:
        job: the stage's job; its settings name the `model`.
        evaluation: name of the evaluation.
        rows: tuples (metric, setting, value).
        n: number of test images that were measured.

    Returns:
        The number of rows.
    """
    model, seed = job.settings["model"], job.seed
    return write_scores(
        job,
        [
            (evaluation, model, metric, "test", setting, float(value), seed, n)
            for metric, setting, value in rows
        ],
    )
