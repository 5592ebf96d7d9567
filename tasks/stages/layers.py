"""Layers: a linear probe of each layer of a network, from the image upwards."""

from __future__ import annotations

from data.types import Artifact
from tasks.config import Config
from tasks.stage import Job, Outcome, Request, Stage
from tasks.stages.manifest import sources

STAGE = Stage(name="layers", kind="scores", version=2, process="train")


def plan(config: Config, manifest: Artifact, checkpoint: Artifact, *, model: str) -> Request:
    """Ask for the scores of a network's layers.

    Args:
        config: of the run.
        manifest: of the run's images.
        checkpoint: the network.
        model: its name in the scores.
    """
    return STAGE.request(
        settings={
            "epochs": config.evaluate.layer_epochs,
            "rates": config.evaluate.layer_rates,
            "standardise": config.evaluate.layer_standardise,
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
    """All layers in the same passes over the labelled images; the network is left as it is."""
    import torch

    from data.errors import Interrupted
    from models.engine import resolve_device, resolve_precision
    from models.evaluation.layers import layer_probes
    from tasks import training
    from tasks.annotated import publish

    wish, device = job.settings, resolve_device(job.compute.device)
    index, label = training.manifest_rows(job.path("manifest"), ("train",))
    test, truth = training.manifest_rows(job.path("manifest"), ("test",))
    known, scored = label >= 0, truth >= 0

    def stop() -> None:
        if job.interrupted():
            raise Interrupted("layers: stopped")

    found = layer_probes(
        training.load(job.path("checkpoint")).to(device),
        job.images(wish["image_size"]).read,
        (index[known], torch.from_numpy(label[known])),
        (test[scored], torch.from_numpy(truth[scored])),
        len(job.meta("manifest")["classes"]),
        size=wish["image_size"],
        epochs=wish["epochs"],
        rates=wish["rates"],
        standardise=wish["standardise"],
        seed=job.seed,
        device=device,
        autocast=resolve_precision(wish["precision"], device) == "bf16",
        report=lambda done, total: job.report(done=done, total=total),
        interrupted=stop,
    )
    rows = [("top1", f"layer={score.layer}", float(score.right.mean())) for score in found]
    rows += [("top1_at_rate", f"layer={score.layer} rate={rate:g}", value) for score in found for rate, value in score.at_rates.items()]  # fmt: skip
    outcome = publish(job, "layers", rows, int(scored.sum()))
    outcome.meta = {
        score.layer: {"values": score.values, "rate": score.rate, "validation": score.validation} for score in found
    }
    return outcome
