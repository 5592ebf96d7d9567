"""Labels: the few that may be used, drawn once and shared by teacher, student, baseline and distillation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from data.draws import key, uniform
from data.errors import DataError
from data.types import Artifact
from tasks.config import Config
from tasks.stage import Job, Outcome, Request, Stage

STAGE = Stage(name="labels", kind="labels", version=1, process="plain")

VALIDATION_SHARE, VALIDATION_FROM = 0.2, 10
"""From 10 labels a class on, 20 % of them choose epochs and rates; with fewer, nothing is selected."""


def plan(config: Config, manifest: Artifact) -> Request:
    """Ask for the draw of labels."""
    data = config.data
    seed = config.seed if data.label_seed is None else data.label_seed
    settings = {"label_fraction": data.label_fraction, "labels_per_class": data.labels_per_class}
    return STAGE.request(settings=settings, inputs={"manifest": manifest}, parts=("train", "train_labels"), seed=seed)


def build(job: Job) -> Outcome:
    """Draw by class, then set a validation part aside."""
    from data.schemas import LABELS, MANIFEST
    from data.tables import column, read_table, write_table

    table = read_table(job.path("manifest") / "images.parquet", MANIFEST)
    train = column(table, "split") == "train"
    index, label = column(table, "index")[train], column(table, "label")[train]
    names: list[str] = job.meta("manifest")["classes"] or []
    drawn, role = draw(
        index[label >= 0],
        label[label >= 0],
        names,
        job.seed,
        fraction=job.settings["label_fraction"],
        per_class=job.settings["labels_per_class"],
    )
    of = dict(zip(index.tolist(), label.tolist(), strict=True))
    rows = {"index": drawn, "label": np.array([of[i] for i in drawn.tolist()], np.int32), "role": role.tolist()}
    return Outcome(rows=write_table(job.out / "labels.parquet", rows, LABELS))


def draw(
    index: NDArray[np.int64],
    label: NDArray[np.int32],
    names: list[str],
    seed: int,
    *,
    fraction: float | None,
    per_class: int | None,
) -> tuple[NDArray[np.int64], NDArray[np.str_]]:
    """A stratified draw: of each class the images that come first in an order fixed by seed and index.

    A larger draw with the same seed contains the smaller one.

    Args:
        index: (N,) rows of the manifest that have a label.
        label: (N,) class of each.
        names: class names, for messages.
        seed: of the draw.
        fraction: share of each class, at least one image; or
        per_class: number of each class; with both None, all.

    Returns:
        index (n,) ascending, and role (n,): train or validation.

    Raises:
        DataError: with one class only, or a class with fewer images than `per_class`.
    """
    classes = np.unique(label)
    if len(classes) < 2:
        only = f"one class only ({names[classes[0]]!r})" if len(classes) else "no labelled training image"
        raise DataError(
            f"labels: {only}; fine-tuning needs two or more: give each class a sub-folder, or put the images in none to go without labels"
        )
    order = uniform(key(seed, "labels"), index, 1)[:, 0]
    drawn: list[NDArray[np.int64]] = []
    role: list[str] = []
    for c in classes:
        of_class = index[label == c][np.argsort(order[label == c], kind="stable")]
        n = len(of_class) if fraction is None else max(1, round(fraction * len(of_class)))
        if per_class is not None:
            n = per_class
        if n > len(of_class):
            raise DataError(
                f"labels: class {names[c]!r} has {len(of_class)} images, data.labels_per_class = {n}; choose at most {len(of_class)}"
            )
        aside = round(VALIDATION_SHARE * n) if n >= VALIDATION_FROM else 0
        drawn.append(of_class[:n])
        role += ["train"] * (n - aside) + ["validation"] * aside
    whole = np.concatenate(drawn)
    ascending = np.argsort(whole)
    return whole[ascending], np.array(role)[ascending]
