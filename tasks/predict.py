"""Predict: the fine-tuned teacher's probabilities for train and unlabelled images."""

from __future__ import annotations

from data.types import Artifact
from models.methods.configs import Views
from tasks.config import Config
from tasks.manifest import sources
from tasks.stage import Job, Outcome, Request, Stage

STAGE = Stage(name="predict", kind="probabilities", version=1, process="train")


def plan(config: Config, manifest: Artifact, checkpoint: Artifact) -> Request:
    """Ask for probabilities of train + unlabelled images; views are drawn as in fine-tuning."""
    views = config.predict.views
    settings = {
        "views": views,
        "view": config.finetune.model_dump(include=set(Views.model_fields)) if views > 1 else None,
        "image_size": config.data.image_size,
        "precision": config.compute.precision,
    }
    return STAGE.request(
        settings=settings,
        inputs={"manifest": manifest, "checkpoint": checkpoint},
        parts=("train", "unlabelled"),
        seed=config.seed if views > 1 else None,
        outside={"sources": sources(config), "batch_size": config.embed.batch_size},
    )


def build(job: Job) -> Outcome:
    """Stream the images through the teacher; with several views, average their probabilities."""
    import numpy as np
    import torch

    from data import schemas
    from data.errors import Interrupted
    from data.tables import VectorWriter
    from models.engine import resolve_device, resolve_precision
    from models.inference import augmented, run
    from tasks import training

    wish = job.settings
    index, _ = training.manifest_rows(job.path("manifest"), ("train", "unlabelled"))
    network = training.load(job.path("checkpoint"))
    device = resolve_device(job.compute.device)
    assert network.classes is not None
    views = None
    if wish["views"] > 1:
        views = augmented(Views.model_validate(wish["view"]), wish["views"], job.seed, "predict", wish["image_size"])
    with VectorWriter(job.out, schemas.probabilities(network.classes)) as out:
        for block_index, block in run(
            network,
            lambda x: torch.softmax(network.features(x, "logits"), dim=1),
            job.images(wish["image_size"]).read,
            index,
            batch_size=job.request.outside["batch_size"],
            size=wish["image_size"],
            device=device,
            precision=resolve_precision(wish["precision"], device),
            views=views,
        ):
            if job.interrupted():
                raise Interrupted("stopped while predicting")
            out.write(block_index, block / np.maximum(block.sum(1, keepdims=True), 1e-12))
            job.report(done=out.rows, total=len(index))
    return Outcome(rows=len(index), meta={"classes": job.meta("manifest")["classes"], "device": str(device)})
