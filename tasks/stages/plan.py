"""Plan: chooses image size, networks and lengths of the first trainings from images, minutes and machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from data.types import Artifact
from tasks.config import Config
from tasks.job import Job
from tasks.size import Context, Inputs, Size
from tasks.sources import sources
from tasks.stage import Outcome, Request, Stage

if TYPE_CHECKING:
    from models.pace import Pace
    from tasks.planning import Speed

STAGE = Stage(name="plan", kind="plan", version=1, process="train")

SAMPLE = 500
"""Number of images that are looked at, to suggest the kind of pictures."""
LOOKED_AT = 64
"""Side at which they are looked at, px."""


def plan(config: Config, manifest: Artifact) -> Request:
    """Request a plan of the trainings that need no labels.

    Keys that the user set are part of the request, and the plan leaves them as they are.
    """
    sections = ("pretext", "transfer", "student", "finetune", "distill")
    settings: dict[str, Any] = {
        "minutes": config.plan.minutes,
        "keep": sorted(config.plan.keep),
        "config": {name: config.model_dump()[name] for name in (*sections, "ship")},
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
    """Estimate the artifact and its cost for a dry run."""
    return Size(1, 3e3, seconds=15.0)


def build(job: Job) -> Outcome:
    """Measure this machine on real steps, look at some images, and plan."""
    from data.store import write_json
    from models.pace import Pace
    from tasks.planning import ENOUGH, FIXED, from_images, sizes

    settings = job.settings
    kept = set(settings["keep"])
    manifest = job.meta("manifest")
    n = manifest["counts"]["train"] + manifest["counts"]["unlabelled"]
    side, kind, reading = _look(job, n)
    own = settings["data"]["image_size"] if "data.image_size" in kept else None
    speeds: dict[int, Speed] = {}
    pace = Pace()
    for size in [own] if own else sizes(side):
        speeds[size] = _speed(job, pace, size, max(2, len(manifest["classes"] or [])), n)
        steps = 60 * settings["minutes"] / 2 / speeds[size].teacher
        job.log(f"{size} px: {speeds[size].teacher:.2g} s per step of the teacher")
        if steps < ENOUGH:  # larger images would take even longer
            break
    found = from_images(
        settings["minutes"],
        n,
        speeds,
        distinct=manifest.get("understood", {}).get("distinct", n),
        fixed=FIXED,
        reading=reading,
        kind=kind,
    )
    size = found.settings["data.image_size"]
    chosen = {key: value for key, value in found.settings.items() if key not in kept}
    meta = {"settings": chosen, "because": found.because, "speed": vars(speeds[size])}
    write_json(job.out / "plan.json", meta)
    return Outcome(rows=len(chosen), meta=meta)


def _look(job: Job, images: int) -> tuple[int, tuple[str, str], float]:
    """Look at a sample of the images.

    Returns:
        The median of their shorter sides, px; their kind, with the reason; and seconds in which all images
        are read.
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


def _speed(job: Job, pace: Pace, size: int, classes: int, images: int) -> Speed:
    """Measure one image size on this machine."""
    from models.configs import PRETEXT, TRANSFER
    from models.configs.distill import Distill
    from models.configs.finetune import Finetune
    from models.configs.shared import Sized
    from models.cost import classifier_cost, pretext_cost
    from models.work import Pass, Step, timed
    from tasks.planning import Speed, batch_size

    asked = job.settings["config"]
    pretext: Any = PRETEXT[asked["pretext"]["method"]].model_validate(asked["pretext"])
    transfer: Any = TRANSFER[asked["transfer"]["method"]].model_validate(asked["transfer"])
    sections: dict[str, Sized] = {
        "pretext": pretext,
        "transfer": transfer,
        "finetune": Finetune.model_validate(asked["finetune"]),
        "distill": Distill.model_validate(asked["distill"]),
    }
    student, precision, batch = asked["student"], job.settings["precision"], batch_size(images)
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
        found = pace.know(work)
        return found.seconds if found else 1e9

    def forward(cost: Any) -> float:
        found = pace.know(
            Pass(network=cost.shape, batch_size=512, precision=precision, operations=cost.forward)
        )
        return found.seconds if found else 1e9

    whole = classifier_cost(pretext.backbone, pretext.width, size, classes)
    return Speed(
        teacher=step("pretext", teacher, batch),
        transfer=step("transfer", small, batch),
        tuned=step("finetune", small, min(64, batch)),
        tuned_teacher=step("finetune", whole, min(64, batch)),
        distill=step("distill", small, batch),
        forward=forward(teacher) + forward(small),
    )
