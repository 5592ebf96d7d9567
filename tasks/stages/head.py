"""Head: fits a linear classifier on the frozen teacher to the propagated probabilities of all images."""

from __future__ import annotations

from data.types import Artifact
from tasks.config import Config
from tasks.job import Job
from tasks.size import Context, Inputs, Size, cost_of, products, trained
from tasks.sources import sources
from tasks.stage import Outcome, Request, Stage, require

STAGE = Stage(name="head", kind="checkpoint", version=1, process="train")


def plan(
    config: Config,
    manifest: Artifact,
    labels: Artifact,
    checkpoint: Artifact,
    features: Artifact,
    probabilities: Artifact,
) -> Request:
    """Request the frozen teacher with a linear classifier.

    Args:
        config: the run's configuration.
        manifest: the manifest of the run's images.
        labels: the drawn labels, which `probabilities` were made from.
        checkpoint: the frozen teacher with a classifier from the labels alone.
        features: the teacher's features of all images.
        probabilities: the propagated probabilities of the same images.
    """
    return STAGE.request(
        settings={"precision": config.compute.precision},
        inputs={
            "manifest": manifest,
            "labels": labels,
            "checkpoint": checkpoint,
            "features": features,
            "probabilities": probabilities,
        },
        parts=("train", "unlabelled"),
        seed=config.seed,
        outside={"sources": sources(config)},
    )


def size(run: Context, request: Request, inputs: Inputs) -> Size:
    """Estimate the artifact and its cost for a dry run."""
    from models.evaluation.linear_head import SOFT_STEPS

    features, classes = inputs["features"], inputs["probabilities"].width
    operations = 6.0 * SOFT_STEPS * features.rows * features.width * classes
    return trained(cost_of(inputs), operations, products(operations))


def build(job: Job) -> Outcome:
    """Fit the classifier to the probabilities of all images, and put it on the teacher."""
    import numpy as np
    import torch

    from data.tables import read_vectors
    from models.evaluation.linear_head import fit_soft_head
    from models.progress import History
    from models.saved import load
    from tasks.embedding import embed
    from tasks.fit import Trained, publish

    network = load(job.path("checkpoint"))
    index, x = read_vectors(job.path("features"))
    at, target = read_vectors(job.path("probabilities"))
    require(np.array_equal(index, at), "head: features and probabilities are of other images")
    if job.meta("features")["layer"] != network.last_layer:
        x = embed(job, network, index, network.last_layer)
    weight, bias = fit_soft_head(x, target)
    assert network.classifier is not None
    with torch.no_grad():
        network.classifier.weight.copy_(torch.from_numpy(weight))
        network.classifier.bias.copy_(torch.from_numpy(bias))
    return publish(job, network, Trained(History([], 0, 0, 0.0, 0.0), []))
