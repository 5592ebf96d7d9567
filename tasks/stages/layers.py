"""Layers: trains a linear probe on each layer of a network, from the first to the last."""

from __future__ import annotations

from data.types import Artifact
from tasks.config import Config
from tasks.job import Job
from tasks.size import Context, Inputs, Size, cost_of, images_of, passes, products, scored
from tasks.sources import sources
from tasks.stage import Leaf, Outcome, Request

STAGE = Leaf(
    name="layers",
    kind="scores",
    version=3,
    process="train",
    reads=("manifest", "checkpoint"),
    needs_labels=True,
    title="Linear probe of a layer",
)


def plan(config: Config, manifest: Artifact, checkpoint: Artifact, *, model: str) -> Request:
    """Request the scores of a network's layers.

    Args:
        config: the run's configuration.
        manifest: the manifest of the run's images.
        checkpoint: the network.
        model: the model's name in the scores.
    """
    return STAGE.request(
        settings={
            "epochs": config.evaluate.layer_epochs,
            "rates": config.evaluate.layer_rates,
            "standardise": config.evaluate.layer_standardise,
            "model": model,
            "image_size": config.data.image_size,
        },
        inputs={"manifest": manifest, "checkpoint": checkpoint},
        parts=("train", "test", "train_labels", "test_labels"),
        seed=config.seed,
        outside={"sources": sources(config)},
    )


def size(run: Context, request: Request, inputs: Inputs) -> Size:
    """Estimate the artifact and its cost for a dry run."""
    from models.device import OF_FEATURES

    images, cost, asked = images_of(inputs), cost_of(inputs), request.settings
    maps = len([name for name in cost.widths if name not in ("features", "logits")])
    probes = 6.0 * 9216 * 5 * images.classes * maps  # five rates, forward and backward
    seen = images.labelled * asked["epochs"]
    work = (passes(run, cost, seen + images.test, precision=OF_FEATURES), products(seen * probes))
    return scored(maps, seen * (cost.forward + probes), *work)


def build(job: Job) -> Outcome:
    """Train the probes of all layers together on the labelled images. The network stays frozen."""
    import torch

    from data.errors import Interrupted
    from models.device import resolve_device
    from models.evaluation.layers import layer_probes
    from models.saved import load
    from tasks.rows import manifest_rows
    from tasks.scoring import write_test_scores

    settings, device = job.settings, resolve_device(job.compute.device)
    index, label = manifest_rows(job.path("manifest"), ("train",))
    test, truth = manifest_rows(job.path("manifest"), ("test",))
    known, judged = label >= 0, truth >= 0

    network = load(job.path("checkpoint"))

    def stop() -> None:
        if job.interrupted():
            raise Interrupted("layers: stopped")

    found = layer_probes(
        network.to(device),
        job.images_for(network).read,
        (index[known], torch.from_numpy(label[known])),
        (test[judged], torch.from_numpy(truth[judged])),
        len(job.meta("manifest")["classes"]),
        size=network.image_size,
        epochs=settings["epochs"],
        rates=settings["rates"],
        standardise=settings["standardise"],
        seed=job.seed,
        device=device,
        report=lambda done, total: job.report(done=done, total=total),
        interrupted=stop,
    )
    rows = [("top1", f"layer={score.layer}", float(score.right.mean())) for score in found]
    rows += [
        ("top1_at_rate", f"layer={score.layer} rate={rate:g}", value)
        for score in found
        for rate, value in score.at_rates.items()
    ]
    probed = {
        score.layer: {"values": score.values, "rate": score.rate, "validation": score.validation}
        for score in found
    }
    return Outcome(rows=write_test_scores(job, "layers", rows, int(judged.sum())), meta=probed)
