"""The arithmetic of a plan: which image size and how many training steps fit into the given minutes.

A plan is made in two parts. `from_images` needs only the images: it chooses the image size, the kind of
pictures, the number of clusters, and the steps of teacher and transfer. `from_labels` follows when these are
trained. It divides the minutes that are left among the trainings on the few labels and distillation. If the
first trainings took longer or shorter than planned, the last ones make up for it.

A foreign teacher is not trained. Its time is that of its features, which it computes of images of its own
size, and the trainings of the student get the rest.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Any

from data.errors import ConfigError
from models.configs.pretrained import Pretrained
from tasks.config import Config
from tasks.overlay import TOGETHER
from tasks.phrases import duration, percent

SIZES = (16, 24, 32, 48, 64, 96, 128, 160, 224)
"""Sides of the images that a plan chooses from, px."""
SHARES = {"pretext": 0.36, "transfer": 0.12, "contenders": 0.34, "distill": 0.18}
"""Share of the training time that each part gets, at first. Contenders are the trainings on the few labels.
If the teacher is foreign, the other parts get the share of pretext, in proportion. What contenders can't use
goes to the first training (`shares`)."""
FIXED = 32.0
"""Seconds of everything but trainings, features and reading: starts, evaluations, tables and the report. They
are counted as chores, so a slow machine takes longer (`models.pace`)."""
ENOUGH = 600
"""A larger image size is chosen only if it leaves time for this many steps of the first training. That is the
teacher's, or with a foreign teacher the student's."""
WIDER, LARGE, PLENTY = 1.5, 256, 1500
"""If the images are no larger than the size that was chosen, the teacher becomes this many times as wide, and
its batches have so many images, provided that it then still has at least so many steps (decision 18)."""
LEAST = 60
"""A budget that leaves time for fewer steps of the first training is refused. A run, which measures again
what a dry run has measured, refuses half of it."""
FEW, MANY = 30, 150
"""Fewest steps in which a network of the chain learns the few labels, and most steps unless there are many
labels. The student's last training has at least the fewest, too."""
KEPT = {"contenders": 0.8, "distill": 0.5}
"""How much of its share a training keeps if the trainings before it took too long. Networks from scratch
learn next to nothing in a few steps, so the run rather takes a little longer."""
SLACK = 1.07
"""How much longer steps take than they were measured: the run's other processes need the machine, too."""
EPOCHS = 10
"""With many labels, a network of the chain may see each of them this often."""
UNTRAINED = 3
"""Networks from scratch get this many times the steps, because they have learned nothing before."""
RARE = 10
"""With fewer labels per class than this, fine-tuned networks tell the mixture little that linear classifiers
have not told it, and networks from scratch tell it most (decision 18). So these get the time."""
UNTRAINED_RARE = 6
"""How many times the steps networks from scratch get then."""
CHOICES = 2
"""How many more views than the first ones a network from scratch may choose from."""
PASSES = 5
"""How often a run computes the teacher's and the student's features of all images, about. It has done so once
when the labels are planned. Most of the others are the student's alone: those of the networks from scratch
and of the rounds of distillation. A foreign teacher is counted by `shown` instead, because it may take most
of the time."""
COMPARED, COMPARED_FOLDS = 320, 96
"""Widths of the features in which a run looks for the neighbours of all images, summed, and of those in which
each fold looks for neighbours among at most `FOLD_IMAGES` of them, about. This matters from 20,000 images on,
as every image is compared with every other."""
FOLD_IMAGES = 20_000
"""Each fold's network from scratch writes its features of at most this many images besides the labelled ones.
Spreading labels over these features is judged by them (`tasks.stages.spread_learned`)."""
SEARCH = 1.3
"""How much longer a search takes than the product of matrices in it."""
TESTS = 2
"""How often a foreign teacher is shown the test images: for its features, and with a linear classifier."""
ALIGNED = 500
"""Maximum number of training images of which evaluation shows two views to teacher and student."""
SOUND, OFTEN = 200, 8
"""Number of images on which the stage `sound` looks at a network that others trained, and how often it shows
each of them, about."""
SETS = frozenset(
    {
        "data.image_size",
        "data.kind",
        "cluster.k",
        "pretext.width",
        *(f"{name}.{key}" for name in ("pretext", "transfer", "distill") for key in ("batch_size", "steps")),
        *(f"{name}.epochs" for name in ("pretext", "transfer", "distill")),
        *(f"transfer.{name}" for name in ("method", *TOGETHER)),
        "predict.neighbours",
        "finetune.batch_size",
        "finetune.steps",
        "finetune.baseline_steps",
        "ship.teacher",
    }
)
"""The keys that a plan sets, and those that take the place of one."""
SMALL_BATCH = 32
"""Labelled images per step. For as many images in all, small batches learn more than large ones. With many
labels, batches are larger, because they take less time per image."""


@dataclass(frozen=True)
class Speed:
    """Measured times on this machine at one image size, seconds.

    Attributes:
        teacher: one step of the pretext training; 0 if the teacher is foreign, because nothing is trained.
        transfer: one step of transfer; the sum over its phases if there are several.
        tuned: one step of the student on the few labels.
        tuned_teacher: one step of the teacher on the few labels.
        distill: one step of distillation.
        forward: features of one image, from the student, and from the teacher too unless it is foreign.
        foreign: features of one image from a foreign teacher, at its own size; 0 if there is none.
        product: one operation of a product of matrices.
        fixed: everything but trainings, features and reading (`FIXED`).
    """

    teacher: float
    transfer: float
    tuned: float
    tuned_teacher: float
    distill: float
    forward: float
    foreign: float = 0.0
    product: float = 0.0
    fixed: float = FIXED

    @property
    def first(self) -> float:
        """One step of the first training: of pretext, or of transfer if the teacher is foreign."""
        return self.teacher or self.transfer

    @property
    def look(self) -> float:
        """Features of one image from the teacher. Of one that the run trains, this includes the student's."""
        return self.foreign or self.forward


def comparing(images: int, folds: int, speed: Speed) -> float:
    """Seconds in which a run finds the neighbours of its images.

    Args:
        images: number of train + unlabelled images.
        folds: number of times that a network is trained to judge it.
        speed: of this machine.
    """
    pairs, some = float(images) ** 2, float(min(images, FOLD_IMAGES)) ** 2
    return SEARCH * 2 * (COMPARED * pairs + COMPARED_FOLDS * folds * some) * speed.product


@dataclass(frozen=True)
class Planned:
    """A part of a plan.

    Attributes:
        settings: dotted key -> value.
        because: dotted key -> the reason, for settings that need one.
    """

    settings: dict[str, Any]
    because: dict[str, str]

    def without(self, kept: Collection[str]) -> Planned:
        """Leave out the settings that the user set. If the user set epochs, leave out the steps."""
        settings = {
            key: value
            for key, value in self.settings.items()
            if key not in kept and not (key.endswith(".steps") and key.replace(".steps", ".epochs") in kept)
        }
        return Planned(settings, {key: text for key, text in self.because.items() if key in settings})

    @property
    def lines(self) -> list[str]:
        """One line per decision: key, value and reason."""
        return [f"{key}={_written(self.settings[key])}: {text}" for key, text in self.because.items()]


def _written(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def shares(speed: Speed, seconds: float, folds: int) -> dict[str, float]:
    """Share of the training time that each part gets. The sum is 1.

    The trainings on the few labels can't use more than `MANY` steps each. What this leaves of their share
    goes to the first training, because a better teacher makes everything after it better. They can't do with
    fewer than `FEW` steps, either. If their share is too small for these, the first training gives the rest.
    Its share is negative if there is too little time even for them.

    Args:
        speed: of this machine.
        seconds: the training time.
        folds: number of times that a network is trained to judge it.
    """
    parts = dict(SHARES)
    if speed.foreign:
        del parts["pretext"]
    parts = {name: share / sum(parts.values()) for name, share in parts.items()}
    trainings, choices = folds + 1, CHOICES if folds else 0
    student = trainings + (trainings + choices) * UNTRAINED_RARE
    # Whether a foreign teacher is fine-tuned depends on its size, and is decided with the labels.
    teacher = 0 if speed.foreign else trainings
    useful = MANY * (student * speed.tuned + teacher * speed.tuned_teacher)
    needed = {"contenders": FEW * student * speed.tuned, "distill": FEW * speed.distill}
    whole, first = max(seconds, 1e-9), "transfer" if speed.foreign else "pretext"
    kept = {name: max(parts[name], seconds_needed / whole) for name, seconds_needed in needed.items()}
    kept["contenders"] = min(kept["contenders"], useful / whole)
    parts[first] += sum(parts[name] - share for name, share in kept.items())
    return parts | kept


def shown(images: int, train: int, tested: int) -> int:
    """How many images a run shows a foreign teacher, each counted as often as it is shown.

    Fine-tuning and what follows from it are not counted (`from_labels`).

    Args:
        images: number of train + unlabelled images.
        train: number of train images.
        tested: number of test images.
    """
    return images + TESTS * tested + 2 * min(train, ALIGNED) + examined(images)


def examined(images: int) -> int:
    """How many images the stage `sound` shows to a network that others trained, as `shown` counts them.

    Args:
        images: number of train + unlabelled images.
    """
    return OFTEN * min(SOUND, images)


def by_hand(config: Config) -> list[str]:
    """The keys that a plan leaves as they are, because the user set them.

    Only keys that a plan sets, or that change what is trained, are named. So another draw of labels, or a
    word on a foreign teacher's licence, makes no other plan.
    """
    sections = {"cluster", "transfer", "student", "predict", "finetune", "ship", "distill"}
    if not isinstance(config.pretext, Pretrained):
        sections.add("pretext")
    return sorted(key for key in config.plan.keep if key in SETS or key.partition(".")[0] in sections)


def batch_size(images: int) -> int:
    """Images per step: 128, but at most half of the images, and at least 2."""
    return max(2, min(128, images // 2))


def labelled_batch(labels: int, images: int) -> int:
    """Labelled images per step: a sixteenth of the labels, but 32 to `batch_size`, and at most all labels."""
    return max(2, min(labels, max(SMALL_BATCH, min(batch_size(images), labels // 16))))


def clusters(images: int, distinct: int) -> int:
    """Number of clusters k: 1.5 times the square root of the number of images, but at most `distinct`.

    The recipes digits and cifar10 have this ratio.
    """
    return max(2, min(round(1.5 * sqrt(images)), distinct))


def sizes(side: int) -> list[int]:
    """The image sizes to choose from, ascending.

    No size enlarges the images by more than a quarter. A size below 32 px shrinks them by at most a fifth,
    because little would be left of them. If no size fits, the smallest one is the only choice.

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
    batch: int | None = None,
    least: int = LEAST,
    load: str = "",
    decoded: int | None = None,
    looks: int = 0,
    student: bool = True,
    folds: int = 0,
    larger: Mapping[str, Any] | None = None,
) -> Planned:
    """Plan what depends on the images alone.

    Args:
        minutes: the budget.
        images: number of train + unlabelled images.
        speeds: image size -> speed, for at least one size.
        distinct: number of different images among them.
        fixed: seconds that a run takes besides trainings and features.
        reading: seconds that reading and decoding all images once takes.
        kind: (kind of pictures, reason).
        batch: images per step of the first training; None: as planned.
        least: a budget for fewer steps of the first training is refused.
        decoded: size in which the images are decoded already, px. In this size, `reading` does not count.
        load: says that other programs ran when the speeds were measured; empty if they did not.
        looks: number of images that a network that others trained is shown, besides `PASSES`. Each is
            counted as often as it is shown.
        student: whether the run trains one. Without one, the features of a foreign teacher are all that has
            to fit into the minutes.
        folds: number of times that a network is trained to judge it.
        larger: width and batch size of a teacher that is larger than usual, for which the speeds hold.

    Raises:
        ConfigError: the budget is too short. The message says how many minutes are enough.
    """
    usual = batch_size(images)
    batch = batch or usual
    foreign = any(speed.foreign for speed in speeds.values())
    first, who = ("transfer", "student") if foreign else ("pretext", "teacher")
    demanded = LEAST
    if foreign and not student:
        least = demanded = 0
    # A foreign teacher takes other squares of the images than the student, so they are decoded once more.
    again = reading if foreign else 0.0
    other = {
        size: fixed
        + (0.0 if size == decoded else reading)
        + again
        + PASSES * images * speed.forward
        + looks * speed.look
        + comparing(images, folds, speed)
        for size, speed in speeds.items()
    }
    left = {size: 60 * minutes - seconds for size, seconds in other.items()}

    def affords(size: int, seconds: float) -> int:
        share = shares(speeds[size], seconds, folds)[first]
        return max(0, int(share * seconds / speeds[size].first))

    steps = {size: affords(size, max(0.0, left[size])) for size in speeds}
    size = max((size for size in steps if steps[size] >= ENOUGH), default=min(steps))
    share, features = shares(speeds[size], left[size], folds), duration(looks * speeds[size].look)
    if steps[size] < least or left[size] < 0:
        need = other[size]
        while affords(size, need - other[size]) < demanded:
            need += 1
        told = [f"the features of the teacher alone take {features}"] if foreign else []
        told += [load] if load else []
        raise ConfigError(
            f"plan.minutes = {minutes:g} is too short for {images:,} images on this machine; "
            f"set at least {-(-need // 6) / 10:.1f}"  # rounded up to 0.1 minutes
            + (f" ({'; '.join(told)})" if told else "")
        )
    looked = f"the teacher is not trained, and its features take about {features}"
    settings: dict[str, Any] = {"data.image_size": size, "data.kind": kind[0]}
    settings["predict.neighbours"] = max(1, min(10, images - 1))
    if foreign and not student:
        return Planned(settings, {"data.image_size": f"no student is trained; {looked}"})
    next_size = min((s for s in steps if s > size), default=None)
    why_size = (
        f"at {next_size} px the {who} would have only {steps[next_size]} steps"
        if next_size is not None
        else f"the smallest size, but the {who} still has only {steps[size]} steps"
        if steps[size] < ENOUGH
        else "as large as the images"
    )
    because = {"data.image_size": why_size, "data.kind": kind[1]}
    often = f"{batch} images per step; each image is seen {steps[size] * batch / images:.1f} times"
    transfer = f"{percent(share['transfer'], 0)} of the minutes"
    if foreign:
        transfer += f" that are left, {often}; {looked}"
    else:
        settings |= {"pretext.batch_size": usual, "pretext.steps": steps[size]}
        because["pretext.steps"] = f"{percent(share['pretext'], 0)} of the minutes, {often}"
        if larger is not None:
            settings |= {f"pretext.{name}": value for name, value in larger.items()}
            because["pretext.width"] = "there is time for a wider teacher"
    settings |= {
        "cluster.k": clusters(images, distinct),
        "transfer.batch_size": usual,
        "transfer.steps": max(1, int(share["transfer"] * left[size] / speeds[size].transfer)),
    }
    because |= {
        "cluster.k": f"1.5 times the square root of {images:,} images",
        "transfer.steps": transfer,
    }
    return Planned(settings, because)


def from_labels(
    seconds: float,
    labels: int,
    images: int,
    speed: Speed,
    folds: int,
    whole: float,
    batch: int | None = None,
    classes: int = 1,
    again: int = 0,
    rounds: int = 1,
) -> Planned:
    """Plan what the few labels are learned with.

    Each network is trained once for every fold and once with all labels: the student from transfer, the
    student's network from scratch, and the teacher if there is time. With fewer than `RARE` labels per class,
    the teacher waits until all others have as many steps as they can use. The network from scratch is trained
    a few more times on the first fold, to choose its views.

    Args:
        seconds: what is left of the budget for training.
        labels: number of drawn labels.
        images: number of train + unlabelled images.
        speed: at the run's image size.
        folds: number of times that a network is trained to judge it; 0 if no class has two labels.
        whole: what all trainings of the run should take, seconds.
        batch: labelled images per step, if the user set it.
        classes: number of classes.
        again: number of images that a foreign teacher is shown once more if it is fine-tuned.
        rounds: number of rounds of distillation, which share its time.
    """
    parts = shares(speed, whole, folds)
    kept = {name: part * parts[name] * whole for name, part in KEPT.items()}
    share = seconds * SHARES["contenders"] / (SHARES["contenders"] + SHARES["distill"])
    share = max(share, kept["contenders"])
    usual = labelled_batch(labels, images)
    batch = batch or usual
    # A step of distillation trains the same network, so a step's time at other batch sizes lies between.
    larger = (batch - SMALL_BATCH) / max(1, batch_size(images) - SMALL_BATCH)
    slower = 1 + max(0.0, larger) * max(0.0, speed.distill / speed.tuned - 1)
    trainings, choices = folds + 1, CHOICES if folds else 0
    rare = labels < RARE * classes
    untrained = UNTRAINED_RARE if rare else UNTRAINED
    alone = (trainings + (trainings + choices) * untrained) * speed.tuned * slower
    both = alone + trainings * speed.tuned_teacher * slower
    most = max(MANY, round(EPOCHS * labels / batch))
    shown_again = again * speed.foreign
    teacher = (share - shown_again) / both >= (most if rare else FEW)
    each, more = (both, shown_again) if teacher else (alone, 0.0)
    steps = int(min(most, max(FEW, (share - more) / each)))
    distill = max(FEW, int(max(seconds - more - steps * each, kept["distill"]) / speed.distill / rounds))
    why = (
        f"more hardly helps with {labels:,} labels"
        if steps == most
        else f"{trainings} trainings of each network, to judge it by the labels"
        if folds
        else "one training of each network, because no class has a second label to judge it by"
    )
    return Planned(
        {
            "finetune.batch_size": usual,
            "finetune.steps": steps,
            "finetune.baseline_steps": untrained * steps,
            "ship.teacher": teacher,
            "distill.batch_size": batch_size(images),
            "distill.steps": distill,
        },
        {
            "finetune.steps": why,
            "finetune.baseline_steps": f"{untrained} times as many for networks from scratch"
            + (f", which learn most from fewer than {RARE} labels per class" if rare else ""),
            "ship.teacher": "fine-tuning the teacher "
            + ("fits into the minutes" if teacher else "would leave the others too few steps"),
            "distill.steps": "the rest of the minutes" + (f", in {rounds} rounds" if rounds > 1 else ""),
        },
    )
