"""Pretext: train the teacher on images without labels."""

from __future__ import annotations

from typing import Any

from data.errors import ConfigError
from data.types import Artifact
from models.configs import PRETEXT
from tasks.config import Config
from tasks.stage import Job, Outcome, Request, Stage
from tasks.stages.manifest import sources

STAGE = Stage(name="pretext", kind="checkpoint", version=2, process="train")


def plan(config: Config, manifest: Artifact) -> Request:
    """Ask for the teacher."""
    settings = {
        "pretext": config.pretext.model_dump(),
        "image_size": config.data.image_size,
        "precision": config.compute.precision,
    }
    return STAGE.request(
        settings=settings,
        inputs={"manifest": manifest},
        parts=("train", "unlabelled"),
        seed=config.seed,
        outside={"sources": sources(config), "layer": config.embed.layer},
    )


def build(job: Job) -> Outcome:
    """Train on train + unlabelled; labels are never read. Codes, if the method gives any, lie beside the weights."""
    from data.order import Shuffled
    from models.methods.pretext import make_pretext
    from tasks import training

    given = job.settings["pretext"]
    config: Any = PRETEXT[given["method"]].model_validate(given)
    size = job.settings["image_size"]
    index, _ = training.manifest_rows(job.path("manifest"), ("train", "unlabelled"))
    method = make_pretext(config, size, job.seed)
    layer, known = job.request.outside["layer"], ("last", *method.network.layer_names())
    if layer not in known:  # better refused now than after training
        raise ConfigError(f"embed.layer = {layer}: a teacher of {config.method} on {config.backbone} has none; choose one of {', '.join(known)}")  # fmt: skip
    feed = training.ImageFeed(
        job.images(size), Shuffled(index, config.batch_size), index, None, training.order_key(job, "pretext")
    )
    outcome = training.train_and_publish(
        job, method, feed, config, epochs=config.epochs, stage="pretext", stop_on_collapse=config.stop_on_collapse
    )
    if config.codes:
        training.write_codes(job, method, feed, round=config.epochs)
    return outcome
