"""Labels: draws the few labels that teacher, student, baseline and distillation may use."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.draws import key, uniform
from data.errors import DataError
from data.types import Artifact
from tasks.config import Config
from tasks.job import Job
from tasks.size import Context, Inputs, Size, images_of
from tasks.stage import Outcome, Request, Stage

STAGE = Stage(name="labels", kind="labels", version=1, process="plain")

VALIDATION_SHARE, VALIDATION_FROM = 0.2, 10
"""Classes with at least 10 drawn labels give 20 % of them for validation; smaller classes give none."""


def plan(config: Config, manifest: Artifact) -> Request:
    """Request the draw of labels."""
    data = config.data
    seed = config.seed if data.label_seed is None else data.label_seed
    settings: dict[str, Any] = {
        "label_fraction": data.label_fraction,
        "labels_per_class": data.labels_per_class,
    }
    if data.labels_short == "take":  # absent otherwise, so that older artifacts keep their names
        settings["short"] = "take"
    return STAGE.request(
        settings=settings, inputs={"manifest": manifest}, parts=("train", "train_labels"), seed=seed
    )


def size(run: Context, request: Request, inputs: Inputs) -> Size:
    """Estimate the artifact and its cost for a dry run."""
    images, asked = images_of(inputs), request.settings
    n = (
        images.labelled
        if asked["label_fraction"] is None
        else round(asked["label_fraction"] * images.labelled)
    )
    n = n if asked["labels_per_class"] is None else asked["labels_per_class"] * images.classes
    return Size(n, 14 * n)


def build(job: Job) -> Outcome:
    """Draw labels per class, then set some aside for validation."""
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
        short=job.settings.get("short", "refuse"),
    )
    of = dict(zip(index.tolist(), label.tolist(), strict=True))
    rows = {
        "index": drawn,
        "label": np.array([of[i] for i in drawn.tolist()], np.int32),
        "role": role.tolist(),
    }
    return Outcome(rows=write_table(job.out / "labels.parquet", rows, LABELS))


def draw(
    index: NDArray[np.int64],
    label: NDArray[np.int32],
    names: list[str],
    seed: int,
    *,
    fraction: float | None,
    per_class: int | None,
    short: str = "refuse",
) -> tuple[NDArray[np.int64], NDArray[np.str_]]:
    """Draw labels, stratified by class.

    The seed puts the images of each class into a random order, and the draw takes the first ones. So a larger
    draw with the same seed contains the smaller one.

    Args:
        index: (N,) int64 indices of the images that have a label.
        label: (N,) int32 class of each image.
        names: class names, for messages.
        seed: seed of the draw.
        fraction: share to draw from each class, at least one image; None: see `per_class`.
        per_class: number to draw from each class; None together with `fraction`: draw all.
        short: refuse, or take what a class has if it has fewer labels than `per_class`.

    Returns:
        The indices (n,), ascending, and the role of each (n,): train or validation.

    Raises:
        DataError: there are fewer than two classes, or a class has fewer images than `per_class`.
    """
    classes = np.unique(label)
    if len(classes) < 2:
        only = f"only one class ({names[classes[0]]!r})" if len(classes) else "no labelled training image"
        raise DataError(
            f"labels: {only}; fine-tuning needs at least two classes. Give each class a sub-folder. To run "
            "without labels, don't use sub-folders"
        )
    order = uniform(key(seed, "labels"), index, 1)[:, 0]
    drawn: list[NDArray[np.int64]] = []
    role: list[str] = []
    for c in classes:
        of_class = index[label == c][np.argsort(order[label == c], kind="stable")]
        n = len(of_class) if fraction is None else max(1, round(fraction * len(of_class)))
        if per_class is not None:
            n = min(per_class, len(of_class)) if short == "take" else per_class
        if n > len(of_class):
            raise DataError(
                f"labels: data.labels_per_class = {n}, but class {names[c]!r} has only {len(of_class)} "
                f"labelled images; choose at most {len(of_class)}, or set data.labels_short=take"
            )
        aside = round(VALIDATION_SHARE * n) if n >= VALIDATION_FROM else 0
        drawn.append(of_class[:n])
        role += ["train"] * (n - aside) + ["validation"] * aside
    whole = np.concatenate(drawn)
    ascending = np.argsort(whole)
    return whole[ascending], np.array(role)[ascending]
