"""Multi-label classification: a network fine-tuned to say which classes are in a photograph, and how well it then does."""

from __future__ import annotations

from data.types import Artifact
from tasks.config import Config
from tasks.downstream import ask
from tasks.stage import Job, Outcome, Request, Stage

STAGE = Stage(name="multi_label", kind="scores", version=1, process="train")


def plan(config: Config, manifest: Artifact, checkpoint: Artifact | None = None, *, model: str) -> Request:
    """Ask for the scores of a classifier.

    Args:
        config: of the run.
        manifest: of `evaluate.voc`.
        checkpoint: whose layers start; None: those of an untrained student.
        model: its name in the scores.
    """
    return ask(STAGE, config.evaluate.multi_label, config, manifest, checkpoint, model)


def build(job: Job) -> Outcome:
    """Train on the training photographs, then classify the test photographs by the mean over random crops."""
    import numpy as np
    import torch

    from data.draws import key
    from data.order import Repeated
    from models.configs.downstream import MultiLabel
    from models.engine import resolve_device, resolve_precision
    from models.evaluation.boxes import VOC07_POINTS, multilabel_average_precision
    from models.evaluation.multi_label import MultiLabelMethod
    from models.inference import augmented, run
    from tasks import training
    from tasks.annotated import Photographs, publish, resampled, start

    config, size = MultiLabel.model_validate(job.settings["training"]), job.settings["image_size"]
    photographs = Photographs(job, size)
    train, test, classes = photographs.rows("train"), photographs.rows("test"), photographs.classes
    labels = {int(i): photographs.present(int(i)) for i in (*train, *test)}
    network = start(job).with_classifier(len(classes), keep_head=0, seed=key(job.seed, "classifier"))
    method = MultiLabelMethod(config, network, {i: torch.from_numpy(label) for i, label in labels.items()})
    images, order = job.images(size), Repeated(train, config.batch_size, config.steps)
    feed = training.ImageFeed(images, order, train, None, training.order_key(job, "multi-label"))
    training.fit(job, method, feed, config, epochs=1, stage="multi-label")

    device = resolve_device(job.compute.device)
    blocks = run(
        network,
        lambda x: network(x).float().sigmoid(),
        images.read,
        test,
        batch_size=64,
        size=size,
        device=device,
        precision=resolve_precision(job.settings["precision"], device),
        views=augmented(config, config.crops, job.seed, "multi-label", size),
    )
    scores = np.concatenate([block for _, block in blocks])
    present = np.stack([labels[i] for i in test.tolist()]).astype(np.int64)
    each = multilabel_average_precision(scores, present)
    low, high = resampled(
        lambda at: float(np.nanmean(multilabel_average_precision(scores[at], present[at]))), len(test), job.seed
    )
    setting = f"crops={config.crops}"
    rows = [
        ("voc_map", setting, np.nanmean(each)),
        ("voc_map_low", setting, low),
        ("voc_map_high", setting, high),
        ("voc07_map", setting, np.nanmean(multilabel_average_precision(scores, present, points=VOC07_POINTS))),
        *(("voc_ap", f"class={name}", value) for name, value in zip(classes, each, strict=True) if np.isfinite(value)),
    ]
    return publish(job, "multi-label", rows, len(test))
