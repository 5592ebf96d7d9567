"""Plan: chooses the image size and the first trainings' lengths to suit the images, minutes and machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from data.errors import ConfigError
from data.types import Artifact
from models.configs.shared import TIMM, Teacher
from tasks.config import Config
from tasks.job import Job
from tasks.planning import (
    ENOUGH,
    FIXED,
    SLACK,
    SMALL_BATCH,
    Speed,
    batch_size,
    by_hand,
    examined,
    from_images,
    shares,
    shown,
    sizes,
)
from tasks.size import Context, Inputs, Size, chores, cost_of, images_of
from tasks.sources import sources
from tasks.stage import Outcome, Request, Stage

if TYPE_CHECKING:
    from models.cost import Cost
    from models.pace import Pace
    from models.work import Shape

STAGE = Stage(name="plan", kind="plan", version=3, process="train")

MEASURING = 12.0
"""Seconds that a dry run counts for measuring this machine, as chores."""
SAMPLE = 500
"""Maximum number of images that are looked at to suggest the kind of pictures."""
LOOKED_AT = 64
"""Side of these images, px."""


def plan(config: Config, manifest: Artifact, teacher: Artifact | None = None, *, tested: int = 0) -> Request:
    """Request a plan of the trainings that need no labels.

    Keys that the user set are part of the request, and the plan leaves them as they are. Where weights of
    others lie is no part of it.

    Args:
        config: the run's configuration.
        manifest: the manifest of the run's images.
        teacher: the foreign teacher; None if the run trains its own.
        tested: number of test images. Only a foreign teacher makes it part of the request, rounded to two
            digits, so that a few more test images change nothing.
    """
    sections = ("pretext", "transfer", "student", "finetune", "distill")
    settings: dict[str, Any] = {
        "minutes": config.plan.minutes,
        "keep": by_hand(config),
        "config": {name: config.model_dump()[name] for name in sections},
        "data": config.data.model_dump(include={"image_size", "kind"}),
        "precision": config.compute.precision,
    }
    if teacher is not None:
        settings["config"]["pretext"] = {"method": config.pretext.method}
        settings |= {"tested": int(float(f"{tested:.2g}")), "student": config.transfers}
    elif isinstance(config.pretext, Teacher) and config.pretext.weights is not None:
        settings["config"]["pretext"]["weights"] = None
        settings["continues"] = True
    return STAGE.request(
        settings=settings,
        inputs={"manifest": manifest} | ({"teacher": teacher} if teacher else {}),
        parts=("train", "unlabelled"),
        outside={"sources": sources(config)},
        seed=config.seed,
    )


def size(run: Context, request: Request, inputs: Inputs) -> Size:
    """Estimate the artifact and its cost for a dry run, and make the plan.

    A dry run does not look at the images, so it assumes photographs unless the user set the kind. For the
    median width and height, it takes the middle of their range.
    """
    images, seen = images_of(inputs), run.seen
    widths, heights = seen.get("width", (256, 256)), seen.get("height", (256, 256))
    kind = request.settings["data"]["kind"]
    assumed = ("photographs", "a dry run assumes this; the run looks at the images")
    meta = _plan(
        request.settings,
        images.all,
        seen.get("distinct", images.all),
        images.classes,
        min(sum(widths), sum(heights)) // 2,
        assumed if kind in (None, "auto") else (kind, "you set it"),
        images.all * run.decoding,
        run.listing + images.all * run.decoding,
        run.pace,
        train=images.train,
        teacher=cost_of(inputs, "teacher") if "teacher" in inputs else None,
    )
    run.assume("plan: the machine stays as busy as it is now; the run measures its speed again")
    return Size(1, 3e3, work=(chores(MEASURING),), meta=meta)


def build(job: Job) -> Outcome:
    """Measure this machine on real steps, look at some images, and plan."""
    from data.store import write_json
    from models.cost import network_cost
    from models.pace import Pace
    from models.saved import load

    manifest = job.meta("manifest")
    n = manifest["counts"]["train"] + manifest["counts"]["unlabelled"]
    side, kind, reading = _look(job, n)
    distinct = manifest.get("understood", {}).get("distinct", n)
    classes = len(manifest["classes"] or [])
    spent = job.meta("manifest")["seconds"]
    teacher = network_cost(load(job.path("teacher"))) if "teacher" in job.request.inputs else None
    meta = _plan(
        job.settings,
        n,
        distinct,
        classes,
        side,
        kind,
        reading,
        spent,
        Pace(),
        job.log,
        train=manifest["counts"]["train"],
        teacher=teacher,
    )
    write_json(job.out / "plan.json", meta)
    return Outcome(rows=len(meta["settings"]), meta=meta)


def _plan(
    settings: dict[str, Any],
    images: int,
    distinct: int,
    classes: int,
    side: int,
    kind: tuple[str, str],
    reading: float,
    spent: float,
    pace: Pace,
    say: Callable[[str], None] = lambda text: None,
    *,
    train: int,
    teacher: Cost | None,
) -> dict[str, Any]:
    """Measure and plan. Return meta.json: settings by dotted key, reasons, and the speed at the chosen size.

    Args:
        settings: the stage's settings.
        images: number of train + unlabelled images.
        distinct: number of different images among them.
        classes: number of classes.
        side: median of the images' shorter sides, px.
        kind: (kind of pictures, reason).
        reading: seconds that reading and decoding all images once more takes.
        spent: seconds that the manifest took.
        pace: measures this machine.
        say: logs a line for each size that was measured.
        train: number of train images.
        teacher: cost of the foreign teacher; None if the run trains its own.
    """
    kept, minutes, tested = set(settings["keep"]), settings["minutes"], settings.get("tested", 0)
    tried = [settings["data"]["image_size"]] if "data.image_size" in kept else sizes(side)
    student = settings.get("student", True)
    who, first = ("teacher", "pretext") if teacher is None else ("student", "transfer")
    speeds: dict[int, Speed] = {}
    refused: ConfigError | None = None
    for size in tried if student else tried[:1]:  # a foreign teacher sees its own size in any case
        try:
            speeds[size] = _speed(settings, pace, size, max(2, classes), images, teacher)
        except ConfigError as error:  # for example, the patches of a transformer don't divide this size
            refused = error
            continue
        say(f"{size} px: {speeds[size].first:.2g} s per step of the {who}")
        if shares(speeds[size])[first] * 60 * minutes / speeds[size].first < ENOUGH:
            break  # larger images would take even longer
    if not speeds:
        assert refused is not None
        raise refused
    # A foreign teacher takes other squares of the images than the student, so they are decoded once more.
    again = 1 if teacher is None else 2
    looks = examined(images) if settings.get("continues") else 0
    if teacher is not None:
        looks = shown(images, train, tested)
    found = from_images(
        minutes,
        images,
        speeds,
        distinct=distinct,
        fixed=FIXED + spent,
        reading=again * reading,
        kind=kind,
        looks=looks,
        student=student,
    )
    size = found.settings["data.image_size"]
    chosen = found.without(kept)
    meta = {"settings": chosen.settings, "because": chosen.lines, "speed": vars(speeds[size])}
    return meta | ({"looks": looks, "tested": tested} if looks else {})


def _look(job: Job, images: int) -> tuple[int, tuple[str, str], float]:
    """Look at a sample of the images.

    Returns:
        The median of their shorter sides, px; (kind of pictures, reason); and the seconds that reading and
        decoding all images takes.
    """
    from time import perf_counter

    import numpy as np

    from data.draws import key, permutation
    from data.kind import suggest
    from data.schemas import MANIFEST
    from data.tables import column, read_table

    table = read_table(job.path("manifest") / "images.parquet", MANIFEST)
    usable = np.flatnonzero(column(table, "split") != "test")
    some = np.sort(usable[permutation(key(job.seed, "look"), len(usable))[:SAMPLE]])
    shorter = np.minimum(column(table, "width"), column(table, "height"))[some]
    began = perf_counter()
    pixels = job.images(LOOKED_AT).read(column(table, "index")[some])
    reading = (perf_counter() - began) / len(some) * images
    chosen = job.settings["data"]["kind"]
    if chosen not in (None, "auto"):
        return int(np.median(shorter)), (chosen, "you set it"), reading
    found = suggest(pixels)
    said = found.because if found.sure else f"{found.because}, but this is uncertain; data.kind chooses"
    return int(np.median(shorter)), (found.kind, said), reading


def _speed(
    settings: dict[str, Any], pace: Pace, size: int, classes: int, images: int, foreign: Cost | None
) -> Speed:
    """Measure the steps of all trainings, and the features, on this machine.

    Args:
        settings: the stage's settings.
        pace: measures this machine.
        size: side of the images that the run's own networks see, px. A foreign teacher sees its own size.
        classes: number of classes.
        images: number of train + unlabelled images.
        foreign: cost of the foreign teacher; None if the run trains its own.

    Raises:
        ConfigError: a network can't be built for such images, or weights of others don't fit to it.
    """
    from models.backbones.backbone import SMALL
    from models.configs import PRETEXT, TRANSFER
    from models.configs.distill import Distill
    from models.configs.finetune import Finetune
    from models.configs.shared import Sized
    from models.cost import classifier_cost, pretext_cost, transfer_cost
    from models.device import OF_FEATURES
    from models.work import Pass, Portion, Step, timed

    asked = settings["config"]
    transfer: Any = TRANSFER[asked["transfer"]["method"]].model_validate(asked["transfer"])
    sections: dict[str, Sized] = {
        "transfer": transfer,
        "finetune": Finetune.model_validate(asked["finetune"]),
        "distill": Distill.model_validate(asked["distill"]),
    }
    student, precision, batch = asked["student"], settings["precision"], batch_size(images)

    def step(
        section: Any, cost: Cost, batch: int, learned: Shape | None = None, phase: str | None = None
    ) -> float:
        given = timed(sections[section].settings(size))
        if cost.shape.own_input:  # views in px are for the run's own networks
            given |= {"view_size": None}
        work = Step(
            section=section,
            settings=given,
            network=cost.shape.model_copy(update={"pretext": None}) if section == "pretext" else cost.shape,
            teacher=learned,
            phase=phase,
            batch_size=batch,
            precision=precision,
            operations=cost.step * batch,
        )
        pace.know(work)
        return SLACK * pace.seconds(Portion(work, 1))

    def forward(cost: Cost, precision: Any = precision) -> float:
        work = Pass(network=cost.shape, batch_size=512, precision=precision, operations=cost.forward)
        pace.know(work)
        return pace.seconds(Portion(work, 1))

    if foreign is None:
        pretext: Any = PRETEXT[asked["pretext"]["method"]].model_validate(asked["pretext"])
        if settings.get("continues") and not pretext.backbone.startswith(TIMM) and size < SMALL:
            raise ConfigError(
                f"pretext.weights: {pretext.backbone} with weights of others needs images of {SMALL} px or "
                f"more, and yours suit {size} px; set data.image_size={SMALL} to enlarge them"
            )
        sections["pretext"], teacher = pretext, pretext_cost(pretext, size)
    else:
        teacher = foreign
    small = classifier_cost(student["backbone"], student["width"], size, classes)
    # First, so that what is too large to try has the pace of the same network.
    looked = 0.0 if foreign is None else forward(teacher, OF_FEATURES)

    def transferred() -> float:
        if transfer.learns_from != "teacher":
            return step("transfer", small, batch)
        cost = transfer_cost(transfer, student["backbone"], student["width"], size, teacher.shape)
        phases = transfer.phases if len(transfer.phases) > 1 else (None,)
        return sum(step("transfer", cost, batch, teacher.shape, phase) for phase in phases)

    seen = teacher.shape
    whole = classifier_cost(seen.backbone, seen.width, seen.image_size, classes, seen.form)
    whole = replace(whole, shape=whole.shape.model_copy(update={"resized": seen.resized}))
    return Speed(
        teacher=step("pretext", teacher, batch) if foreign is None else 0.0,
        transfer=transferred(),
        tuned=step("finetune", small, min(SMALL_BATCH, batch)),
        tuned_teacher=step("finetune", whole, min(SMALL_BATCH, batch)),
        distill=step("distill", small, batch),
        forward=forward(teacher) + forward(small) if foreign is None else forward(small),
        foreign=looked,
    )
