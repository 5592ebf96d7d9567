"""Predict: the fine-tuned teacher's probabilities for train and unlabelled images; without a teacher the student's."""

from __future__ import annotations

from data.types import Artifact
from models.configs import Views
from tasks.config import Config
from tasks.stage import Job, Outcome, Request, Stage
from tasks.stages.manifest import sources

STAGE = Stage(name="predict", kind="probabilities", version=2, process="train")


def plan(config: Config, manifest: Artifact, checkpoint: Artifact, student: Artifact | None = None) -> Request:
    """Ask for probabilities of train + unlabelled images; random views are drawn as in fine-tuning.

    Args:
        config: of the run.
        manifest: of the run's images.
        checkpoint: the fine-tuned teacher; the fine-tuned student where no teacher was trained.
        student: the fine-tuned student, to be averaged in.
    """
    views = config.predict.views
    settings = {
        "views": views,
        "view": config.finetune.model_dump(include=set(Views.model_fields)) if views > 1 else None,
        "mirror": config.predict.mirror,
        "image_size": config.data.image_size,
        "precision": config.compute.precision,
    }
    return STAGE.request(
        settings=settings,
        inputs={"manifest": manifest, "checkpoint": checkpoint} | ({"student": student} if student else {}),
        parts=("train", "unlabelled"),
        seed=config.seed if views > 1 else None,
        outside={"sources": sources(config), "batch_size": config.embed.batch_size},
    )


def build(job: Job) -> Outcome:
    """Stream the images through the networks; average probabilities over networks and views."""
    import numpy as np
    import torch

    from data import schemas
    from data.errors import Interrupted
    from data.tables import VectorWriter
    from models.engine import resolve_device, resolve_precision
    from models.inference import augmented, mirrored, run
    from tasks import training

    wish, size = job.settings, job.settings["image_size"]
    index, _ = training.manifest_rows(job.path("manifest"), ("train", "unlabelled"))
    networks = torch.nn.ModuleList(
        training.load(job.path(n)) for n in ("checkpoint", "student") if n in job.request.inputs
    )
    classes = len(job.meta("manifest")["classes"])
    device = resolve_device(job.compute.device)
    views = mirrored(size) if wish["mirror"] else None
    if wish["views"] > 1:
        views = augmented(Views.model_validate(wish["view"]), wish["views"], job.seed, "predict", size)

    def probabilities(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.softmax(network(x).float(), dim=1) for network in networks]).mean(dim=0)

    with VectorWriter(job.out, schemas.probabilities(classes)) as out:
        for block_index, block in run(
            networks,
            probabilities,
            job.images(size).read,
            index,
            batch_size=job.request.outside["batch_size"],
            size=size,
            device=device,
            precision=resolve_precision(wish["precision"], device),
            views=views,
        ):
            if job.interrupted():
                raise Interrupted("stopped while predicting")
            out.write(block_index, block / np.maximum(block.sum(1, keepdims=True), 1e-12))
            job.report(done=out.rows, total=len(index))
    return Outcome(rows=len(index), meta={"classes": job.meta("manifest")["classes"], "device": str(device)})
