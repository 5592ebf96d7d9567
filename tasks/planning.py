"""The arithmetic of a plan: what to train, and for how long, so that a run ends after the given minutes.

First the images decide (`from_images`): the size, the networks, the steps of teacher and transfer. When these
are trained, the labels decide (`from_labels`) about the rest of the minutes. So what the first trainings took
too long, or too short, the last ones make up for.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Any

from data.errors import ConfigError

SIZES = (16, 24, 32, 48, 64, 96, 128, 160, 224)
"""Sides of the images that a plan chooses from, px."""
SHARES = {"pretext": 0.45, "transfer": 0.15, "contenders": 0.2, "distill": 0.2}
"""How the minutes are divided among the trainings."""
FIXED = 45.0
"""Seconds of a run besides trainings, features and reading: starts, evaluations, tables and the report."""
ENOUGH = 400
"""Steps of the teacher that a larger image size must leave time for."""
LEAST = 60
"""Steps of the teacher below which a budget is refused."""
FEW, MANY = 30, 300
"""Fewest and most steps in which a network learns the few labels. The student's last training has at least
the fewest, too."""
OTHERS = 3
"""Networks that learn the few labels, besides the teacher: the student from transfer, and twice from
scratch."""


@dataclass(frozen=True)
class Speed:
    """Measured times on this machine at one image size, seconds.

    Attributes:
        teacher: a step of the teacher.
        transfer: a step of transfer.
        tuned: a step of the student on the few labels.
        tuned_teacher: the same of the teacher.
        distill: a step of distillation.
        forward: the teacher's and the student's features of one image, together.
    """

    teacher: float
    transfer: float
    tuned: float
    tuned_teacher: float
    distill: float
    forward: float


@dataclass(frozen=True)
class Planned:
    """A part of a plan.

    Attributes:
        settings: dotted key -> value.
        because: one line per decision, with its reason.
    """

    settings: dict[str, Any]
    because: list[str]


def without_kept(settings: Mapping[str, Any], kept: Collection[str]) -> dict[str, Any]:
    """The planned settings without those that the user set, and without steps where the user set epochs."""
    return {
        key: value
        for key, value in settings.items()
        if key not in kept and not (key.endswith(".steps") and key.replace(".steps", ".epochs") in kept)
    }


def batch_size(images: int) -> int:
    """Images per step: 128, or less if there are few."""
    return max(2, min(128, images // 2))


def clusters(images: int, distinct: int) -> int:
    """k: 1.5 times the square root of the number of images, as in the recipes digits and cifar10."""
    return max(2, min(round(1.5 * sqrt(images)), distinct))


def sizes(side: int) -> list[int]:
    """The image sizes to choose from, ascending.

    None enlarges the images by more than a quarter. Below 32 px, none makes them smaller by more than a
    fifth, because little would be left.

    Args:
        side: the images' shorter side, px.
    """
    return [size for size in SIZES if min(32, 0.8 * side) <= size <= 1.25 * side] or [SIZES[0]]


def from_images(
    minutes: float,
    images: int,
    speeds: Mapping[int, Speed],
    *,
    distinct: int,
    fixed: float,
    reading: float,
    kind: tuple[str, str],
) -> Planned:
    """Plan what depends on the images alone.

    Args:
        minutes: the budget.
        images: number of train + unlabelled images.
        speeds: image size -> speed, for one size or more, ascending.
        distinct: number of different images among them.
        fixed: seconds that a run takes besides trainings and features.
        reading: seconds in which all images are read and decoded once.
        kind: kind of pictures, and why.

    Raises:
        ConfigError: the budget is too short.
    """
    batch = batch_size(images)
    left = {size: 60 * minutes - fixed - reading - 3 * images * s.forward for size, s in speeds.items()}
    steps = {size: int(SHARES["pretext"] * left[size] / s.teacher) for size, s in speeds.items()}
    size = max((size for size in steps if steps[size] >= ENOUGH), default=min(steps))
    if steps[size] < LEAST:
        speed = speeds[size]
        need = fixed + reading + 3 * images * speed.forward + LEAST * speed.teacher / SHARES["pretext"]
        raise ConfigError(
            f"plan.minutes = {minutes:g} is too short for {images:,} images on this machine; "
            f"set at least {-(-need // 6) / 10:.1f}"
        )
    transfer = max(1, int(SHARES["transfer"] * left[size] / speeds[size].transfer))
    k = clusters(images, distinct)
    larger = min((s for s in steps if s > size), default=None)
    why_size = (
        f"at {larger} px the teacher would have only {steps[larger]} steps"
        if larger is not None
        else f"the smallest; even so the teacher has only {steps[size]} steps"
        if steps[size] < ENOUGH
        else "as large as the images"
    )
    seen = steps[size] * batch / images
    return Planned(
        {
            "data.image_size": size,
            "data.kind": kind[0],
            "pretext.batch_size": batch,
            "pretext.steps": steps[size],
            "cluster.k": k,
            "transfer.batch_size": batch,
            "transfer.steps": transfer,
            "predict.neighbours": max(1, min(10, images - 1)),
        },
        [
            f"data.image_size={size}: {why_size}",
            f"data.kind={kind[0]}: {kind[1]}",
            f"pretext.steps={steps[size]} of {batch} images: {SHARES['pretext']:.0%} of the minutes; "
            f"each image is seen {seen:.1f} times",
            f"cluster.k={k}: 1.5 times the square root of {images:,} images",
            f"transfer.steps={transfer}: {SHARES['transfer']:.0%} of the minutes",
        ],
    )


def from_labels(seconds: float, labels: int, images: int, speed: Speed, folds: int) -> Planned:
    """Plan what the few labels are learned with.

    Args:
        seconds: what is left of the budget for training.
        labels: number of drawn labels.
        images: number of train + unlabelled images.
        speed: at the run's image size.
        folds: number of times that a network is trained to judge it.
    """
    both = SHARES["contenders"] + SHARES["distill"]
    share = seconds * SHARES["contenders"] / both
    each = (folds + 1) * (OTHERS * speed.tuned + speed.tuned_teacher)
    alone = (folds + 1) * OTHERS * speed.tuned
    teacher = share / each >= FEW
    steps = int(min(MANY, max(FEW, share / (each if teacher else alone))))
    spent = steps * (each if teacher else alone)
    distill = max(FEW, int((seconds - spent) / speed.distill))
    why = (
        f"{folds + 1} trainings of each network, to judge it by the labels"
        if steps < MANY
        else f"more hardly helps with {labels:,} labels"
    )
    return Planned(
        {
            "finetune.batch_size": max(2, min(64, labels)),
            "finetune.steps": steps,
            "ship.teacher": teacher,
            "distill.batch_size": batch_size(images),
            "distill.steps": distill,
        },
        [
            f"finetune.steps={steps}: {why}",
            f"ship.teacher={str(teacher).lower()}: fine-tuning the teacher "
            + ("fits into the minutes" if teacher else "would leave the others too few steps"),
            f"distill.steps={distill}: the rest of the minutes",
        ],
    )
