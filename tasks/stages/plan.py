"""Plan: chooses the image size and the first trainings' lengths to suit the images, minutes and machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from data.errors import ConfigError
from data.types import Artifact
from models.configs.distill import Distill
from models.configs.pseudo_labels import PseudoLabels
from models.configs.regression import Regression
from models.configs.shared import TIMM, Teacher
from tasks.config import Config
from tasks.job import Job
from tasks.overlay import TOGETHER, merge
from tasks.planning import (
    ENOUGH,
    FIXED,
    LARGE,
    LEAST,
    PLENTY,
    SLACK,
    SMALL_BATCH,
    WIDER,
    Planned,
    Speed,
    batch_size,
    by_hand,
    examined,
    from_images,
    shares,
    shown,
    sizes,
)
from tasks.size import Context, Inputs, Sample, Section, Size, chores, cost_of, images_of, step
from tasks.sources import sources
from tasks.stage import Outcome, Request, Stage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from models.cost import Cost
    from models.pace import Pace

STAGE = Stage(name="plan", kind="plan", version=7, process="train")

MEASURING = 12.0
"""Seconds that a dry run counts for measuring this machine, as chores."""
SAMPLE = 500
"""Maximum number of images that are looked at to suggest the kind of pictures."""
LOOKED_AT = 64
"""Largest side of these images, px."""
USUAL = 256
"""Assumed shorter side of images that are not here, px."""


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
    # These change nothing that is planned here.
    idle = {"finetune": {"mixup", "baseline_mixup"}, "distill": {"rounds"}}
    given = config.model_dump(include=set(sections), exclude=idle)
    settings: dict[str, Any] = {
        "minutes": config.plan.minutes,
        "keep": by_hand(config),
        "config": {name: given[name] for name in sections},
        "data": config.data.model_dump(include={"image_size", "kind"}),
        "precision": config.compute.precision,
        "folds": config.ship.folds if config.ship.compare else 0,
    }
    if teacher is not None:
        settings["config"]["pretext"] = {"method": config.pretext.method}
        settings |= {"tested": int(float(f"{tested:.2g}")), "student": config.transfers}
        settings["regression"] = config.transfers and _may_regress(config)
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


def _may_regress(config: Config) -> bool:
    """Whether the plan may choose regression.

    It may not if the user has set something of transfer besides its length, or something about the clusters,
    which a student of regression does not see.
    """
    chosen = {key for key in config.plan.keep if key.partition(".")[0] in ("transfer", "cluster", "assign")}
    lengths = {f"transfer.{name}" for name in ("batch_size", "steps", "epochs")}
    return chosen <= lengths and isinstance(config.transfer, PseudoLabels) and not config.review


def size(run: Context, request: Request, inputs: Inputs) -> Size:
    """Estimate the artifact and its cost for a dry run, and make the plan.

    The run measures its speed again. So that it does not refuse what a dry run accepts, it contents itself
    with half of the steps that a dry run demands.

    If the images are not here, they are assumed to be photographs unless the user set the kind.
    """
    from models.device import resolve_device
    from models.pace import Pace

    images, asked = images_of(inputs), request.settings["data"]
    device = resolve_device(run.config.compute.device)
    sample = run.sample(min(LOOKED_AT, asked["image_size"]), SAMPLE)
    meta = _plan(
        request.settings,
        images.all,
        run.seen.get("distinct", images.all),
        images.classes,
        USUAL if sample is None else sample.shorter,
        _kind(asked["kind"], None if sample is None else sample.pixels),
        images.all * run.decoding,
        run.listing + images.all * run.decoding,
        run.pace if device.type == "cpu" else Pace(device=device),
        LEAST,
        train=images.train,
        teacher=cost_of(inputs, "teacher") if "teacher" in inputs else None,
    )
    run.assume("plan: for this machine without other programs; the run measures its speed again")
    return Size(1, 3e3, work=(chores(MEASURING),), meta=meta)


def build(job: Job) -> Outcome:
    """Measure this machine on real steps, look at some images, and plan."""
    from data.store import write_json
    from models.cost import network_cost
    from models.device import resolve_device
    from models.pace import Pace
    from models.saved import load

    manifest = job.meta("manifest")
    n = manifest["counts"]["train"] + manifest["counts"]["unlabelled"]
    distinct = manifest.get("understood", {}).get("distinct", n)
    classes = len(manifest["classes"] or [])
    sample, spent = _look(job), manifest["seconds"]
    kind = _kind(job.settings["data"]["kind"], sample.pixels)
    pace = Pace(device=resolve_device(job.compute.device))
    # The manifest has read and decoded all images. Decoding them in another size takes about as long.
    meta = _plan(
        job.settings,
        n,
        distinct,
        classes,
        sample.shorter,
        kind,
        spent,
        spent,
        pace,
        LEAST // 2,
        job.log,
        train=manifest["counts"]["train"],
        teacher=network_cost(load(job.path("teacher"))) if "teacher" in job.request.inputs else None,
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
    least: int,
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
        reading: seconds that reading and decoding all images once more takes, in a new size.
        spent: seconds that the manifest took.
        pace: measures this machine.
        least: a budget for fewer steps of the first training is refused.
        say: logs a line for each size that was measured.
        train: number of train images.
        teacher: cost of the foreign teacher; None if the run trains its own.
    """
    from tasks.phrases import under_load

    kept, minutes, tested = set(settings["keep"]), settings["minutes"], settings.get("tested", 0)
    regression = dict[str, Any]()
    if settings.get("regression"):
        own = settings["config"]["transfer"]
        over = {"method": Regression().method} | {name: own[name] for name in TOGETHER}
        regression = {f"transfer.{name}": value for name, value in over.items()}
        settings = settings | {"config": merge(settings["config"], {"transfer": over})}
    tried = [settings["data"]["image_size"]] if "data.image_size" in kept else sizes(side)
    sections = _sections(settings, None if "data.kind" in kept else kind[0], images)
    student = settings.get("student", True)
    who, first = ("teacher", "pretext") if teacher is None else ("student", "transfer")
    speeds: dict[int, Speed] = {}
    refused: ConfigError | None = None
    for size in tried if student else tried[:1]:  # a foreign teacher sees its own size in any case
        try:
            speeds[size] = _speed(settings, sections, pace, size, max(2, classes), teacher)
        except ConfigError as error:  # for example, the patches of a transformer don't divide this size
            refused = error
            continue
        say(f"{size} px: {speeds[size].first:.2g} s per step of the {who}")
        share = shares(speeds[size], 60 * minutes, settings["folds"])[first]
        if share * 60 * minutes / speeds[size].first < ENOUGH:
            break  # larger images would take even longer
    if not speeds:
        assert refused is not None
        raise refused
    looks = examined(images) if settings.get("continues") else 0
    if teacher is not None:
        looks = shown(images, train, tested)
    load = under_load(pace.taken)
    if load:
        say(load)
    told: dict[str, Any] = {
        "distinct": distinct,
        "fixed": next(iter(speeds.values())).fixed + spent,
        "reading": reading,
        "kind": kind,
        "batch": sections[first].batch_size,
        "least": least,
        "load": load,
        "decoded": settings["data"]["image_size"],
        "looks": looks,
        "student": student,
        "folds": settings["folds"] if student else 0,
    }
    found = from_images(minutes, images, speeds, **told)
    if found.settings["data.image_size"] == tried[-1] and _widens(settings, sections, found):
        for larger in _larger(sections["pretext"], images, kept):
            wider = sections | {"pretext": sections["pretext"].model_copy(update=larger)}
            wide = {tried[-1]: _speed(settings, wider, pace, tried[-1], max(2, classes))}
            batch = {"batch": larger["batch_size"]}
            other = from_images(minutes, images, wide, **told | batch, larger=larger)
            if other.settings["pretext.steps"] >= PLENTY:
                found, speeds = other, wide
                break
    if regression:
        why = {
            "transfer.method": "a student learns more from a foreign teacher's features than from clusters"
        }
        found = Planned(regression | found.settings, why | found.because)
    size = found.settings["data.image_size"]
    chosen = found.without(kept)
    # A later run with the same minutes follows this plan. So the load of this moment must not shape it.
    because = [*chosen.lines, *([f"{load}; the steps are those for this machine alone"] if load else [])]
    meta = {"settings": chosen.settings, "because": because, "speed": vars(speeds[size])}
    return meta | ({"looks": looks, "tested": tested} if looks else {})


def _widens(settings: dict[str, Any], sections: dict[str, Any], found: Planned) -> bool:
    """Whether a wider teacher may be planned: there is time, and the user has set nothing against it.

    Args:
        settings: the stage's settings.
        sections: the configurations of the trainings, by section.
        found: what is planned with the usual width.
    """
    chosen = {"pretext.width", "pretext.steps", "pretext.epochs"} & set(settings["keep"])
    if chosen or found.settings.get("pretext.steps", 0) < PLENTY:
        return False
    return not settings.get("continues") and not sections["pretext"].backbone.startswith(TIMM)


def _larger(usual: Any, images: int, kept: set[str]) -> list[dict[str, Any]]:
    """Widths and batch sizes of larger teachers, the best one first.

    Args:
        usual: the configuration of the usual teacher.
        images: number of train + unlabelled images. Large batches are for many images.
        kept: the keys that the user set.
    """
    batches = [usual.batch_size]
    if images >= 20 * LARGE and "pretext.batch_size" not in kept:
        batches = [LARGE, *batches]
    return [{"width": WIDER * usual.width, "batch_size": batch} for batch in batches]


def _look(job: Job) -> Sample:
    """Look at a random sample of the images, in the size in which the manifest has decoded them all."""
    import numpy as np

    from data.decode import resize_square
    from data.draws import key, permutation
    from data.preprocessing import stored_size
    from data.schemas import MANIFEST
    from data.tables import column, read_table

    table = read_table(job.path("manifest") / "images.parquet", MANIFEST)
    usable = np.flatnonzero(column(table, "split") != "test")
    some = np.sort(usable[permutation(key(job.seed, "look"), len(usable))[:SAMPLE]])
    shorter = np.minimum(column(table, "width"), column(table, "height"))[some]
    size = job.settings["data"]["image_size"]
    pixels = job.images(size).read(column(table, "index")[some])
    if size > LOOKED_AT:
        pixels = np.stack([resize_square(each, stored_size(LOOKED_AT)) for each in pixels])
    return Sample(pixels, int(np.median(shorter)))


def _kind(chosen: str | None, pixels: NDArray[np.uint8] | None) -> tuple[str, str]:
    """The kind of pictures, and the reason: the user's choice, or what the pixels suggest."""
    from data.kind import suggest

    if chosen is not None and chosen != "auto":
        return chosen, "you set it"
    if pixels is None:
        return "photographs", "a dry run assumes this if the images are not here; the run looks at them"
    found = suggest(pixels)
    said = found.because if found.sure else f"{found.because}, but this is uncertain; data.kind chooses"
    return found.kind, said


def _sections(settings: dict[str, Any], kind: str | None, images: int) -> dict[str, Any]:
    """The configurations of the trainings, with the batch sizes and the views that the plan will give them.

    Args:
        settings: the stage's settings.
        kind: the kind of pictures; None: the user chose it, and the views suit it already.
        images: number of train + unlabelled images.
    """
    from models.configs import PRETEXT, TRANSFER
    from models.configs.finetune import Finetune
    from tasks.overlay import suit_kind

    chosen: dict[str, dict[str, Any]] = {"data": {"kind": kind}}
    for key in settings["keep"]:
        section, _, name = key.partition(".")
        chosen.setdefault(section, {}).setdefault(name, None)
    found = dict(suit_kind(settings["config"], chosen))
    batch = batch_size(images)
    batches = {"pretext": batch, "transfer": batch, "distill": batch, "finetune": min(SMALL_BATCH, batch)}
    for section, planned in batches.items():
        if section != "finetune" and f"{section}.batch_size" in settings["keep"]:
            planned = max(2, min(found[section]["batch_size"], images))
        found[section] = {**found[section], "batch_size": planned}
    # Nothing is trained with a foreign teacher, and its other keys are not even known here.
    trained = PRETEXT[found["pretext"]["method"]]
    pretext = {"pretext": trained.model_validate(found["pretext"])} if issubclass(trained, Teacher) else {}
    return pretext | {
        "transfer": TRANSFER[found["transfer"]["method"]].model_validate(found["transfer"]),
        "finetune": Finetune.model_validate(found["finetune"]),
        "distill": Distill.model_validate(found["distill"]),
    }


def _speed(
    settings: dict[str, Any],
    sections: dict[str, Any],
    pace: Pace,
    size: int,
    classes: int,
    foreign: Cost | None = None,
) -> Speed:
    """Measure the steps of all trainings, and the features, at one image size on this machine.

    Args:
        settings: the stage's settings.
        sections: the configurations of the trainings, by section.
        pace: measures this machine.
        size: side of the images that the run's own networks see, px. A foreign teacher sees its own size.
        classes: number of classes.
        foreign: cost of the foreign teacher; None if the run trains its own.

    Raises:
        ConfigError: a network can't be built for such images, or weights of others don't fit to it.
    """
    from models.backbones.backbone import SMALL
    from models.cost import classifier_cost, pretext_cost, transfer_cost
    from models.device import OF_FEATURES
    from models.work import Chores, Pass, Portion, Products

    student, precision, transfer = settings["config"]["student"], settings["precision"], sections["transfer"]
    if foreign is None:
        pretext = sections["pretext"]
        if settings.get("continues") and not pretext.backbone.startswith(TIMM) and size < SMALL:
            raise ConfigError(
                f"pretext.weights: {pretext.backbone} with weights of others needs images of {SMALL} px or "
                f"more, and yours suit {size} px; set data.image_size={SMALL} to enlarge them"
            )
    teacher = pretext_cost(sections["pretext"], size) if foreign is None else foreign
    seen = teacher.shape
    small = classifier_cost(student["backbone"], student["width"], size, classes)
    learned, taught = small, None
    if transfer.learns_from == "teacher":
        learned, taught = transfer_cost(transfer, student["backbone"], student["width"], size, seen), seen

    def seconds(section: Section, cost: Any, shape: Any = None, phase: str | None = None) -> float:
        config = sections[section]
        batch, given = config.batch_size, config.settings(size)
        if cost.shape.own_input:  # views in px are for the run's own networks
            given |= {"view_size": None}
        work = step(section, given, cost, batch, precision, teacher=shape, phase=phase)
        pace.know(work)
        # Between epochs, a method may look at all images. Per step, these are as many as a batch has.
        return SLACK * pace.alone(Portion(work, 1, swept=batch))

    def forward(cost: Any, precision: Any = precision) -> float:
        work = Pass(network=cost.shape, batch_size=512, precision=precision, operations=cost.forward)
        pace.know(work)
        return pace.alone(Portion(work, 1))

    pace.know(Products())
    product = pace.alone(Portion(Products(), 1))
    pace.know(Chores())
    # First, so that what is too large to try has the pace of the same network.
    looked = 0.0 if foreign is None else forward(foreign, OF_FEATURES)
    phases = transfer.phases if len(transfer.phases) > 1 else (None,)
    whole = classifier_cost(seen.backbone, seen.width, seen.image_size, classes, seen.form)
    whole = replace(whole, shape=whole.shape.model_copy(update={"resized": seen.resized}))
    return Speed(
        teacher=seconds("pretext", teacher) if foreign is None else 0.0,
        transfer=sum(seconds("transfer", learned, taught, phase) for phase in phases),
        tuned=seconds("finetune", small),
        tuned_teacher=seconds("finetune", whole),
        distill=seconds("distill", small),
        forward=forward(teacher) + forward(small) if foreign is None else forward(small),
        foreign=looked,
        product=product,
        fixed=pace.seconds(Portion(Chores(), FIXED)),
    )
