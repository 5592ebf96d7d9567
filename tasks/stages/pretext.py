"""Pretext: trains the teacher on images without labels."""

from __future__ import annotations

from typing import Any

from data.errors import ConfigError
from data.types import Artifact
from models.configs import PRETEXT
from models.configs.shared import Teacher
from tasks.config import Config
from tasks.job import Job
from tasks.size import Context, Inputs, Size, decoded, images_of, steps, trained
from tasks.sources import sources
from tasks.stage import Outcome, Request, Stage

STAGE = Stage(name="pretext", kind="checkpoint", version=2, process="train")


def plan(config: Config, manifest: Artifact, checkpoint: Artifact | None = None) -> Request:
    """Request the teacher. The method must train one.

    Args:
        config: the run's configuration.
        manifest: the manifest of the run's images.
        checkpoint: the foreign network that the training starts from; None: random weights.
    """
    assert isinstance(config.pretext, Teacher)
    settings = {
        # the input says which weights
        "pretext": config.pretext.settings(config.data.image_size, exclude=frozenset({"weights"})),
        "image_size": config.data.image_size,
        "precision": config.compute.precision,
        **config.pretext.revisions(),
    }
    return STAGE.request(
        settings=settings,
        inputs={"manifest": manifest} | ({"checkpoint": checkpoint} if checkpoint else {}),
        parts=("train", "unlabelled"),
        seed=config.seed,
        outside={"sources": sources(config), "layer": config.embed.layer},
    )


def size(run: Context, request: Request, inputs: Inputs) -> Size:
    """Estimate the artifact and its cost for a dry run."""
    from models.cost import pretext_cost

    given = request.settings["pretext"]
    config: Any = PRETEXT[given["method"]].model_validate(given)
    cost = pretext_cost(config, request.settings["image_size"])
    images = images_of(inputs)
    n, (epochs, each) = images.all, config.length(images.all)
    batch = max(1, min(config.batch_size, n))
    work = steps(run, "pretext", given, cost, batch, epochs * each, swept=n * epochs)
    size = trained(cost, cost.step * config.seen(n), work)
    size.seconds, size.images = decoded(run, images, epochs * each * batch), images
    return size


def build(job: Job) -> Outcome:
    """Train on train + unlabelled images without reading labels.

    If the method gives codes, they are written next to the weights.

    Raises:
        ConfigError: the teacher has no layer `embed.layer`, or does not fit the weights that it starts from.
        CollapsedError: all outputs became alike, and the method stops on collapse.
    """
    from data.order import Shuffled
    from models.method import make_pretext
    from models.network import starting
    from models.saved import load
    from tasks.feed import ImageFeed, order_key
    from tasks.fit import train_and_publish, write_codes
    from tasks.rows import manifest_rows

    given = job.settings["pretext"]
    config: Any = PRETEXT[given["method"]].model_validate(given)
    size = job.settings["image_size"]
    index, _ = manifest_rows(job.path("manifest"), ("train", "unlabelled"))
    if "checkpoint" in job.request.inputs:
        rate = config.learning_rate * config.continue_rate
        with starting(load(job.path("checkpoint"))):
            method = make_pretext(config.model_copy(update={"learning_rate": rate}), size, job.seed)
        method.rate_decay = config.continue_decay
    else:
        method = make_pretext(config, size, job.seed)
    layer, known = job.request.outside["layer"], ("last", *method.network.layer_names())
    if layer not in known:  # embed needs it; check before the long training
        raise ConfigError(
            f"embed.layer = {layer}: a {config.backbone} trained by {config.method} has no such layer; "
            f"choose one of {', '.join(known)}"
        )
    epochs, steps = config.length(len(index))
    order = Shuffled(index, config.batch_size, steps=steps)
    feed = ImageFeed(job.images(size), order, index, None, order_key(job, "pretext"))
    outcome = train_and_publish(
        job,
        method,
        feed,
        config,
        epochs=epochs,
        stage="pretext",
        stop_on_collapse=config.stop_on_collapse,
    )
    if config.codes:
        write_codes(job, method, feed, round=epochs)
    return outcome
