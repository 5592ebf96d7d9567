"""Multi-label: fine-tunes a network to tell which classes are in a photograph, and measures the result."""

from __future__ import annotations

from data.types import Artifact
from tasks.config import Config
from tasks.further_training import ask_further, size_further
from tasks.job import Job
from tasks.stage import Leaf, Outcome, Request

STAGE = Leaf(
    name="multi_label",
    kind="scores",
    version=2,
    process="train",
    reads=("photographs", "checkpoint"),
    title="Classes in a photograph, trained further",
)


def plan(config: Config, photographs: Artifact, checkpoint: Artifact | None = None, *, model: str) -> Request:
    """Request the scores of a classifier.

    Args:
        config: the run's configuration.
        photographs: the manifest of `evaluate.voc`.
        checkpoint: the network to start from; None: an untrained student.
        model: the model's name in the scores.
    """
    return ask_further(STAGE, config.evaluate.multi_label, config, photographs, checkpoint, model)


size = size_further


def build(job: Job) -> Outcome:
    """Train on the training photographs, then classify each test photograph by the mean over random crops."""
    import numpy as np
    import torch

    from data.draws import key
    from data.order import Repeated
    from models.configs.evaluations import MultiLabel
    from models.device import OF_FEATURES, resolve_device
    from models.evaluation.boxes import VOC07_POINTS, multilabel_average_precision
    from models.evaluation.multi_label import MultiLabelMethod
    from models.inference import augmented, run
    from tasks.annotated import Photographs, resampled, start
    from tasks.feed import ImageFeed, order_key
    from tasks.fit import fit
    from tasks.scoring import write_test_scores

    config = MultiLabel.model_validate(job.settings["training"])
    photographs = Photographs(job, job.settings["image_size"])
    train, test, classes = photographs.rows("train"), photographs.rows("test"), photographs.classes
    labels = {int(i): photographs.present(int(i)) for i in (*train, *test)}
    network = start(job).with_classifier(len(classes), keep_head=0, seed=key(job.seed, "classifier"))
    method = MultiLabelMethod(config, network, {i: torch.from_numpy(label) for i, label in labels.items()})
    images, order = job.images_for(network), Repeated(train, config.batch_size, config.steps)
    feed = ImageFeed(images, order, train, None, order_key(job, "multi-label"))
    fit(job, method, feed, config, epochs=1, stage="multi-label")

    device = resolve_device(job.compute.device)
    blocks = run(
        network,
        lambda x: network(x).float().sigmoid(),
        images.read,
        test,
        batch_size=64,
        size=network.image_size,
        device=device,
        precision=OF_FEATURES,
        views=augmented(config, config.crops, job.seed, "multi-label", network.image_size),
    )
    scores = np.concatenate([block for _, block in blocks])
    present = np.stack([labels[i] for i in test.tolist()]).astype(np.int64)
    each = multilabel_average_precision(scores, present)
    low, high = resampled(
        lambda at: float(np.nanmean(multilabel_average_precision(scores[at], present[at]))),
        len(test),
        job.seed,
    )
    setting = f"crops={config.crops}"
    rows = [
        ("voc_map", setting, np.nanmean(each)),
        ("voc_map_low", setting, low),
        ("voc_map_high", setting, high),
        (
            "voc07_map",
            setting,
            np.nanmean(multilabel_average_precision(scores, present, points=VOC07_POINTS)),
        ),
        *(
            ("voc_ap", f"class={name}", value)
            for name, value in zip(classes, each, strict=True)
            if np.isfinite(value)
        ),
    ]
    return Outcome(rows=write_test_scores(job, "multi-label", rows, len(test)))
