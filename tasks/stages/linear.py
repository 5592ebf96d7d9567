"""Linear: fits a linear classifier on a frozen network to the few labels, and judges it out of fold."""

from __future__ import annotations

from typing import Any

from data.types import Artifact
from tasks.config import Config
from tasks.job import Job
from tasks.size import Context, Inputs, Size, cost_of, passes, trained
from tasks.sources import sources
from tasks.stage import Outcome, Request, Stage

STAGE = Stage(name="linear", kind="checkpoint", version=2, process="train")


def plan(config: Config, manifest: Artifact, labels: Artifact, checkpoint: Artifact) -> Request:
    """Request a frozen network with a linear classifier.

    Args:
        config: the run's configuration.
        manifest: the manifest of the run's images.
        labels: the drawn labels.
        checkpoint: the network, which stays as it is.
    """
    settings: dict[str, Any] = {"image_size": config.data.image_size, "precision": config.compute.precision}
    if config.finetune.balanced:
        settings["balanced"] = True
    return STAGE.request(
        settings=settings,
        inputs={"manifest": manifest, "labels": labels, "checkpoint": checkpoint},
        parts=("train",),
        seed=config.seed,
        outside={"sources": sources(config)},
    )


def size(run: Context, request: Request, inputs: Inputs) -> Size:
    """Estimate the artifact and its cost for a dry run."""
    from models.device import OF_FEATURES

    cost, n = cost_of(inputs), inputs["labels"].rows
    return trained(cost, n * cost.forward, passes(run, cost, n, precision=OF_FEATURES))


def build(job: Job) -> Outcome:
    """Fit a logistic regression to the frozen features of the labelled images, and write its predictions."""
    from models.evaluation.linear_head import fit_head, set_head
    from models.progress import History
    from models.saved import load
    from tasks.embedding import embed
    from tasks.fit import Trained, publish
    from tasks.out_of_fold import write_out_of_fold
    from tasks.rows import drawn_rows

    index, label = drawn_rows(job.path("labels"))
    classes = len(job.meta("manifest")["classes"])
    network = load(job.path("checkpoint")).with_classifier(classes, keep_fc=True, keep_head=0, seed=0)
    x = embed(job, network, index, network.last_layer)
    balanced = job.settings.get("balanced", False)
    head = fit_head(x, label, classes, seed=job.seed, balanced=balanced)
    set_head(network, head)
    write_out_of_fold(job.out, index[head.position], head.out_of_fold.label, head.out_of_fold.logits)
    outcome = publish(job, network, Trained(History([], 0, 0, 0.0, 0.0), []))
    outcome.meta |= {"penalty": head.penalty}
    return outcome
