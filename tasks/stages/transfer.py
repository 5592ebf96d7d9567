"""Transfer: train the student from scratch on pseudo-labels, of which only the membership is passed on, or on the teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from data.types import Artifact
from models.configs import TRANSFER
from tasks.config import Config
from tasks.stage import Job, Outcome, Request, Stage
from tasks.stages.manifest import sources

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

STAGE = Stage(name="transfer", kind="checkpoint", version=2, process="train")


def plan(
    config: Config, manifest: Artifact, checkpoint: Artifact | None = None, *, phase: str, **learned: Artifact
) -> Request:
    """Ask for the student, trained on train + unlabelled images of the manifest.

    Args:
        config: of the run.
        manifest: of the images.
        checkpoint: what the phase before has published; None in the first.
        phase: one of `config.transfer.phases`.
        **learned: what the student learns from: `assignments`, `codes` or `teacher` (a checkpoint).
    """
    settings = {
        "transfer": config.transfer.model_dump(exclude={"labels"}),  # said by the inputs
        "student": config.student.model_dump(),
        "image_size": config.data.image_size,
        "precision": config.compute.precision,
    }
    if len(config.transfer.phases) > 1:
        settings["phase"] = phase
    return STAGE.request(
        settings=settings,
        inputs={"manifest": manifest, **learned} | ({"checkpoint": checkpoint} if checkpoint else {}),
        parts=("train", "unlabelled"),
        seed=config.seed,
        outside={"sources": sources(config, config.assign.data or config.cluster.data)},
    )


def build(job: Job) -> Outcome:
    """Train on labels, each of them equally often, or on all images with the frozen teacher beside."""
    import numpy as np

    from data.draws import key
    from data.order import Order, Shuffled, UniformOverClusters
    from models.engine import resolve_device
    from models.methods.pretext import trainer
    from models.network import build_network
    from tasks import training

    given, student, size = job.settings["transfer"], job.settings["student"], job.settings["image_size"]
    config: Any = TRANSFER[given["method"]].model_validate(given)
    inputs, phase = job.request.inputs, job.settings.get("phase")
    name = "transfer" if phase is None else f"transfer-{phase}"
    order: Order
    target: NDArray[np.int64] | None = None
    classes: int | None = None
    frozen, told = [], {} if phase is None else {"phase": phase}
    if "teacher" in inputs:
        index, _ = training.manifest_rows(job.path("manifest"), ("train", "unlabelled"))
        order = Shuffled(index, config.batch_size)
        teacher = training.load(job.path("teacher")).to(resolve_device(job.compute.device))
        frozen, told = [teacher.eval().requires_grad_(False)], told | {"seed": job.seed}
    else:
        index, label = _labels(job)
        used, target = np.unique(label, return_inverse=True)
        order, classes = UniformOverClusters(index, target, config.batch_size), len(used)
    if "checkpoint" in inputs:
        network = training.load(job.path("checkpoint"))
    else:
        seed = key(job.seed, "student")
        network = build_network(student["backbone"], size, width=student["width"], classes=classes, seed=seed)
    method = trainer(config.trainer)(config, network, *frozen, **told)
    feed = training.ImageFeed(job.images(size), order, index, target, training.order_key(job, name))
    return training.train_and_publish(job, method, feed, config, epochs=config.epochs, stage=name)


def _labels(job: Job) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Index (N,) ascending and pseudo-label (N,) of each image: its cluster, or the code of the first head."""
    import numpy as np

    from data.schemas import ASSIGNMENTS, CODES
    from data.tables import column, read_table

    codes = "codes" in job.request.inputs
    table = read_table(job.path("codes" if codes else "assignments"), CODES if codes else ASSIGNMENTS)
    index, cluster = column(table, "index"), column(table, "cluster")
    if codes:
        first = column(table, "head") == 0
        index, cluster = index[first], cluster[first]
    ascending = np.argsort(index)
    return index[ascending], cluster[ascending]
