"""Nonlinear: trains non-linear classifiers on a network's frozen layers, with all training labels."""

from __future__ import annotations

from dataclasses import replace

from data.types import Artifact
from tasks.config import Config
from tasks.job import Job
from tasks.size import Context, Inputs, Size, cost_of, images_of, passes, products, scored, steps
from tasks.sources import sources
from tasks.stage import Leaf, Outcome, Request

STAGE = Leaf(
    name="nonlinear",
    kind="scores",
    version=1,
    process="train",
    reads=("manifest", "checkpoint"),
    needs_labels=True,
    title="Non-linear probe",
)


def plan(config: Config, manifest: Artifact, checkpoint: Artifact, *, model: str) -> Request:
    """Request the scores of an MLP on the last features, and of networks retrained above a frozen layer.

    Args:
        config: the run's configuration.
        manifest: the manifest of the run's images.
        checkpoint: the network.
        model: the model's name in the scores.
    """
    return STAGE.request(
        settings={
            "nonlinear": config.evaluate.nonlinear.settings(config.data.image_size),
            "model": model,
            "image_size": config.data.image_size,
            "precision": config.compute.precision,
        },
        inputs={"manifest": manifest, "checkpoint": checkpoint},
        parts=("train", "test", "train_labels", "test_labels"),
        seed=config.seed,
        outside={"sources": sources(config)},
    )


def size(run: Context, request: Request, inputs: Inputs) -> Size:
    """Estimate the artifact and its cost for a dry run."""
    images, cost, asked = images_of(inputs), cost_of(inputs), request.settings["nonlinear"]
    trainings = max(1, len(asked["layers"]))
    n, batch = images.labelled, asked["batch_size"]
    shape = cost.shape.model_copy(update={"classes": images.classes})
    count = asked["epochs"] * max(1, n // batch) * trainings
    work = (
        steps(run, "nonlinear", asked, replace(cost, shape=shape, step=3 * cost.forward), batch, count),
        passes(run, cost, n + images.test * (1 + trainings)),
        products(6.0 * n * asked["epochs"] * asked["hidden"] * cost.widths["features"]),
    )
    return scored(1 + trainings, 3 * cost.forward * n * asked["epochs"] * trainings, *work)


def build(job: Job) -> Outcome:
    """Train the MLP on features in memory. Then freeze the network up to each layer and train the rest."""
    import torch

    from data.draws import key
    from data.order import Shuffled
    from models.configs.evaluations import NonLinear
    from models.evaluation.nonlinear import AboveLayer, middle_layer, mlp_probe
    from models.saved import load
    from tasks.embedding import embed
    from tasks.feed import ImageFeed, order_key
    from tasks.fit import fit
    from tasks.rows import manifest_rows
    from tasks.scoring import write_test_scores

    config = NonLinear.model_validate(job.settings["nonlinear"])
    classes = len(job.meta("manifest")["classes"])
    index, label = manifest_rows(job.path("manifest"), ("train",))
    test, truth = manifest_rows(job.path("manifest"), ("test",))
    (index, label), (test, truth) = ((i[y >= 0], y[y >= 0]) for i, y in ((index, label), (test, truth)))
    given = load(job.path("checkpoint"))
    x, t = (torch.from_numpy(embed(job, given, rows, "features")) for rows in (index, test))
    predicted = mlp_probe(
        x,
        torch.from_numpy(label),
        t,
        classes,
        hidden=config.hidden,
        epochs=config.epochs,
        batch_size=min(config.batch_size, len(x)),
        seed=key(job.seed, "mlp"),
    )
    rows = [("top1", f"mlp hidden={config.hidden}", float((predicted.numpy() == truth).mean()))]
    for layer in config.layers or [middle_layer(given)]:
        name = f"nonlinear-{layer}"
        method = AboveLayer(config, given, layer, classes, key(job.seed, name))
        feed = ImageFeed(
            job.images_for(given), Shuffled(index, config.batch_size), index, label, order_key(job, name)
        )
        fit(job, method, feed, config, epochs=config.epochs, stage=name, part=name)
        logits = embed(job, method.network, test, "logits")
        rows.append(("top1", f"frozen up to {layer}", float((logits.argmax(1) == truth).mean())))
    return Outcome(rows=write_test_scores(job, "nonlinear", rows, len(truth)))
