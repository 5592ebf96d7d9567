"""Transfer: train the student from scratch on the pseudo-labels. Only the cluster membership is passed on."""

from __future__ import annotations

from typing import Any

from data.types import Artifact
from models.methods.configs import TRANSFER
from tasks.config import Config
from tasks.manifest import sources
from tasks.stage import Job, Outcome, Request, Stage

STAGE = Stage(name="transfer", kind="checkpoint", version=1, process="train")


def plan(config: Config, manifest: Artifact, assignments: Artifact) -> Request:
    """Ask for the student trained on the assignments, which are of train + unlabelled images of the manifest."""
    settings = {
        "transfer": config.transfer.model_dump(),
        "student": config.student.model_dump(),
        "image_size": config.data.image_size,
        "precision": config.compute.precision,
    }
    return STAGE.request(
        settings=settings,
        inputs={"manifest": manifest, "assignments": assignments},
        parts=("train", "unlabelled"),
        seed=config.seed,
        outside={"sources": sources(config, config.assign.data or config.cluster.data)},
    )


def build(job: Job) -> Outcome:
    """Classify images into their clusters, every non-empty cluster equally often."""
    import numpy as np

    from data.draws import key
    from data.order import UniformOverClusters
    from data.schemas import ASSIGNMENTS
    from data.tables import column, read_table
    from models.methods.pseudo_labels import PseudoLabelsMethod
    from models.network import build_network
    from tasks import training

    given, student, size = job.settings["transfer"], job.settings["student"], job.settings["image_size"]
    config: Any = TRANSFER[given["method"]].model_validate(given)
    table = read_table(job.path("assignments"), ASSIGNMENTS)
    order = np.argsort(column(table, "index"))
    index = column(table, "index")[order]
    used, cluster = np.unique(column(table, "cluster")[order], return_inverse=True)
    network = build_network(
        student["backbone"], size, width=student["width"], classes=len(used), seed=key(job.seed, "student")
    )
    batches = UniformOverClusters(index, cluster, config.batch_size)
    feed = training.ImageFeed(
        job.images(size), batches, index, cluster.astype(np.int64), training.order_key(job, "transfer")
    )
    method = PseudoLabelsMethod(config, network)
    return training.train_and_publish(job, method, feed, config, epochs=config.epochs, stage="transfer")
