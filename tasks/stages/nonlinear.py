"""Nonlinear: what a non-linear classifier makes of a network's frozen layers, with all labels."""

from __future__ import annotations

from data.types import Artifact
from tasks.config import Config
from tasks.stage import Job, Outcome, Request, Stage
from tasks.stages.manifest import sources

STAGE = Stage(name="nonlinear", kind="scores", version=1, process="train")


def plan(config: Config, manifest: Artifact, checkpoint: Artifact, *, model: str) -> Request:
    """Ask for the scores of an MLP on the last features, and of what is above some layers.

    Args:
        config: of the run.
        manifest: of the run's images.
        checkpoint: the network.
        model: its name in the scores.
    """
    return STAGE.request(
        settings={
            "nonlinear": config.evaluate.nonlinear.model_dump(),
            "model": model,
            "image_size": config.data.image_size,
            "precision": config.compute.precision,
        },
        inputs={"manifest": manifest, "checkpoint": checkpoint},
        parts=("train", "test", "train_labels", "test_labels"),
        seed=config.seed,
        outside={"sources": sources(config)},
    )


def build(job: Job) -> Outcome:
    """The MLP on features in memory; then a training for each layer, with the layers up to it standing still."""
    import torch

    from data.draws import key
    from data.order import Shuffled
    from models.configs.downstream import NonLinear
    from models.evaluation.nonlinear import AboveLayer, middle_layer, mlp_probe
    from tasks import training
    from tasks.annotated import publish

    config, size = NonLinear.model_validate(job.settings["nonlinear"]), job.settings["image_size"]
    classes = len(job.meta("manifest")["classes"])
    index, label = training.manifest_rows(job.path("manifest"), ("train",))
    test, truth = training.manifest_rows(job.path("manifest"), ("test",))
    (index, label), (test, truth) = ((i[y >= 0], y[y >= 0]) for i, y in ((index, label), (test, truth)))
    given = training.load(job.path("checkpoint"))
    x, t = (torch.from_numpy(training.embed(job, given, rows, "features", size)) for rows in (index, test))
    predicted = mlp_probe(
        x, torch.from_numpy(label), t, classes, hidden=config.hidden, epochs=config.epochs,
        batch_size=min(config.batch_size, len(x)), seed=key(job.seed, "mlp"),
    )  # fmt: skip
    rows = [("top1", f"mlp hidden={config.hidden}", float((predicted.numpy() == truth).mean()))]
    for layer in config.layers or [middle_layer(given)]:
        name = f"nonlinear-{layer}"
        method = AboveLayer(config, given, layer, classes, key(job.seed, name))
        feed = training.ImageFeed(
            job.images(size), Shuffled(index, config.batch_size), index, label, training.order_key(job, name)
        )
        training.fit(job, method, feed, config, epochs=config.epochs, stage=name, part=name)
        logits = training.embed(job, method.network, test, "logits", size)
        rows.append(("top1", f"frozen up to {layer}", float((logits.argmax(1) == truth).mean())))
    return publish(job, "nonlinear", rows, len(truth))
