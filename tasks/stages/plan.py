"""Plan: chooses the image size and the first trainings' lengths to suit the images, minutes and machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from data.types import Artifact
from tasks.config import Config
from tasks.job import Job
from tasks.size import Context, Inputs, Size, chores, images_of
from tasks.sources import sources
from tasks.stage import Outcome, Request, Stage

if TYPE_CHECKING:
    from models.pace import Pace
    from tasks.planning import Speed

STAGE = Stage(name="plan", kind="plan", version=3, process="train")

MEASURING = 12.0
"""Seconds that a dry run counts for measuring this machine, as chores."""
SAMPLE = 500
"""Maximum number of images that are looked at to suggest the kind of pictures."""
LOOKED_AT = 64
"""Side of these images, px."""


def plan(config: Config, manifest: Artifact) -> Request:
    """Request a plan of the trainings that need no labels.

    Keys that the user set are part of the request, and the plan leaves them as they are.
    """
    sections = ("pretext", "transfer", "student", "finetune", "distill")
    settings: dict[str, Any] = {
        "minutes": config.plan.minutes,
        "keep": sorted(config.plan.keep),
        "config": {name: config.model_dump()[name] for name in sections},
        "data": config.data.model_dump(include={"image_size", "kind"}),
        "precision": config.compute.precision,
    }
    return STAGE.request(
        settings=settings,
        inputs={"manifest": manifest},
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
    )
    run.assume("plan: the machine stays as busy as it is now; the run measures its speed again")
    return Size(1, 3e3, work=(chores(MEASURING),), meta=meta)


def build(job: Job) -> Outcome:
    """Measure this machine on real steps, look at some images, and plan."""
    from data.store import write_json
    from models.pace import Pace

    manifest = job.meta("manifest")
    n = manifest["counts"]["train"] + manifest["counts"]["unlabelled"]
    side, kind, reading = _look(job, n)
    distinct = manifest.get("understood", {}).get("distinct", n)
    classes = len(manifest["classes"] or [])
    spent = job.meta("manifest")["seconds"]
    meta = _plan(job.settings, n, distinct, classes, side, kind, reading, spent, Pace(), job.log)
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
    """
    from tasks.planning import ENOUGH, FIXED, SHARES, from_images, sizes

    kept, minutes = set(settings["keep"]), settings["minutes"]
    own = settings["data"]["image_size"] if "data.image_size" in kept else None
    speeds: dict[int, Speed] = {}
    for size in [own] if own else sizes(side):
        speeds[size] = _speed(settings, pace, size, max(2, classes), images)
        say(f"{size} px: {speeds[size].teacher:.2g} s per step of the teacher")
        if SHARES["pretext"] * 60 * minutes / speeds[size].teacher < ENOUGH:
            break  # larger images would take even longer
    found = from_images(
        minutes, images, speeds, distinct=distinct, fixed=FIXED + spent, reading=reading, kind=kind
    )
    size = found.settings["data.image_size"]
    chosen = found.without(kept)
    return {"settings": chosen.settings, "because": chosen.lines, "speed": vars(speeds[size])}


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


def _speed(settings: dict[str, Any], pace: Pace, size: int, classes: int, images: int) -> Speed:
    """Measure the steps of all trainings, and the features, at one image size on this machine."""
    from models.configs import PRETEXT, TRANSFER
    from models.configs.distill import Distill
    from models.configs.finetune import Finetune
    from models.configs.shared import Sized
    from models.cost import classifier_cost, pretext_cost
    from models.work import Pass, Portion, Step, timed
    from tasks.planning import SLACK, SMALL_BATCH, Speed, batch_size

    asked = settings["config"]
    pretext: Any = PRETEXT[asked["pretext"]["method"]].model_validate(asked["pretext"])
    transfer: Any = TRANSFER[asked["transfer"]["method"]].model_validate(asked["transfer"])
    sections: dict[str, Sized] = {
        "pretext": pretext,
        "transfer": transfer,
        "finetune": Finetune.model_validate(asked["finetune"]),
        "distill": Distill.model_validate(asked["distill"]),
    }
    student, precision, batch = asked["student"], settings["precision"], batch_size(images)
    teacher = pretext_cost(pretext, size)
    small = classifier_cost(student["backbone"], student["width"], size, classes)

    def step(section: Any, cost: Any, batch: int) -> float:
        work = Step(
            section=section,
            settings=timed(sections[section].settings(size)),
            network=cost.shape.model_copy(update={"pretext": None}) if section == "pretext" else cost.shape,
            batch_size=batch,
            precision=precision,
            operations=cost.step * batch,
        )
        pace.know(work)
        return SLACK * pace.seconds(Portion(work, 1))

    def forward(cost: Any) -> float:
        work = Pass(network=cost.shape, batch_size=512, precision=precision, operations=cost.forward)
        pace.know(work)
        return pace.seconds(Portion(work, 1))

    whole = classifier_cost(pretext.backbone, pretext.width, size, classes)
    return Speed(
        teacher=step("pretext", teacher, batch),
        transfer=step("transfer", small, batch),
        tuned=step("finetune", small, min(SMALL_BATCH, batch)),
        tuned_teacher=step("finetune", whole, min(SMALL_BATCH, batch)),
        distill=step("distill", small, batch),
        forward=forward(teacher) + forward(small),
    )
