"""Reads what the model that ships says of the test images, for the report."""

from __future__ import annotations

from typing import Any

import numpy as np

from data import schemas
from data.tables import column, read_table
from models.evaluation import calibration, classes
from tasks.job import Job
from tasks.report.content import Answered, Answers, ClassRow, ConfidenceBin, Mistake
from tasks.reported.shown import pixels

_MISTAKES_SHOWN = 40
_STEPS = 10
"""Equal steps of confidence in which the test images are counted."""


def read_answers(job: Job, names: list[str]) -> Answers:
    """What the model that ships says of the labelled test images."""
    table = read_table(job.path("answers") / "answers.parquet", schemas.ANSWERS)
    table = table.filter(column(table, "label") >= 0)
    label, predicted = (column(table, name).astype(np.int64) for name in ("label", "predicted"))
    confidence, right = column(table, "confidence").astype(np.float64), label == predicted
    matrix = classes.confusion(label, predicted, len(names))
    rows = read_table(job.path("answers") / "scores.parquet", schemas.SCORES).to_pylist()
    scores = {row["metric"]: row["value"] for row in rows if not row["setting"].startswith("class=")}
    shares = [float(row["setting"].removeprefix("share=")) for row in rows if "share=" in row["setting"]]
    wrong = np.flatnonzero(~right)
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")][:_MISTAKES_SHOWN]
    return Answers(
        n=len(label),
        right=int(right.sum()),
        balanced=scores["balanced_accuracy"],
        macro_f1=scores["macro_f1"],
        confidence=scores["mean_confidence"],
        log_loss=scores["log_loss"],
        brier=scores["brier"],
        error=scores["calibration_error"],
        error_interval=(scores["calibration_error_low"], scores["calibration_error_high"]),
        bins=tuple(ConfidenceBin(**vars(each)) for each in calibration.bins(confidence, right)),
        histogram=tuple(np.histogram(confidence, _STEPS, (0, 1))[0].tolist()),
        answered=tuple(
            Answered(**vars(each)) for each in calibration.answered(confidence, right, tuple(shares))
        ),
        classes=_classes(job, matrix, names),
        names=tuple(names),
        matrix=matrix,
        pairs=tuple((names[a], names[b], n) for a, b, n in classes.confused(matrix)),
        mistakes=_mistakes(job, table, wrong, names),
    )


def _classes(job: Job, matrix: Any, names: list[str]) -> tuple[ClassRow, ...]:
    """A row for each class, those with the lowest recall first, and those without test images last."""
    labels: list[int] | None = None
    if "labels" in job.request.inputs:
        draw = read_table(job.path("labels") / "labels.parquet", schemas.LABELS)
        labels = np.bincount(column(draw, "label"), minlength=len(names)).tolist()
    wrong = matrix - np.diag(matrix.diagonal())
    rows = []
    for c, name in enumerate(names):
        most = int(wrong[c].argmax())
        mostly = (names[most], int(wrong[c, most])) if wrong[c, most] else None
        n, right, answers = int(matrix[c].sum()), int(matrix[c, c]), int(matrix[:, c].sum())
        rows.append(ClassRow(name, n, right, answers, None if labels is None else labels[c], mostly))
    return tuple(sorted(rows, key=lambda row: (not row.n, row.recall or 0.0, -row.n)))


def _mistakes(job: Job, table: Any, wrong: Any, names: list[str]) -> tuple[Mistake, ...]:
    """The images of some rows of answers.parquet."""
    index = column(table, "index")[wrong]
    shown = pixels(job, sorted(index.tolist()))
    columns = (column(table, name)[wrong].tolist() for name in ("label", "predicted", "confidence"))
    return tuple(
        Mistake(shown[i][0], names[true], names[answer], sure, shown[i][1])
        for i, true, answer, sure in zip(index.tolist(), *columns, strict=True)
    )
