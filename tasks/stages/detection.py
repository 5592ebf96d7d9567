"""Detection: trains a network's convolutional layers further to find objects, and measures the result."""

from __future__ import annotations

from data.types import Artifact
from tasks.config import Config
from tasks.further_training import ask_further, size_further
from tasks.job import Job
from tasks.stage import Leaf, Outcome, Request

STAGE = Leaf(
    name="detection",
    kind="scores",
    version=1,
    process="train",
    reads=("photographs", "checkpoint"),
    title="Detection, trained further",
)


def plan(config: Config, photographs: Artifact, checkpoint: Artifact | None = None, *, model: str) -> Request:
    """Request the scores of a detector.

    Args:
        config: the run's configuration.
        photographs: the manifest of `evaluate.voc`.
        checkpoint: the network to start from; None: an untrained student.
        model: the model's name in the scores.
    """
    return ask_further(STAGE, config.evaluate.detection, config, photographs, checkpoint, model)


size = size_further


def build(job: Job) -> Outcome:
    """Train on the training photographs, then detect objects in the test photographs."""
    import numpy as np
    import torch

    from data.draws import key
    from data.order import Repeated
    from models.configs.evaluations import Detection
    from models.evaluation.boxes import (
        COCO_OVERLAPS,
        VOC07_POINTS,
        Found,
        coco_average_precision,
        voc_average_precision,
    )
    from models.evaluation.detection import DetectionMethod
    from tasks.annotated import Photographs, resampled, start
    from tasks.feed import ImageFeed, order_key
    from tasks.fit import fit
    from tasks.scoring import write_test_scores

    config = Detection.model_validate(job.settings["training"])
    photographs = Photographs(job, config.side)
    train, test, classes = photographs.rows("train"), photographs.rows("test"), photographs.classes
    truths = {int(i): photographs.truth(int(i)) for i in (*train, *test)}
    extents = {i: photographs.extent(i) for i in truths}
    method = DetectionMethod(config, start(job), truths, extents, len(classes), key(job.seed, "detection"))
    images, order = job.images(config.side, whole=True), Repeated(train, config.batch_size, config.steps)
    feed = ImageFeed(images, order, train, None, order_key(job, "detection"))
    fit(job, method, feed, config, epochs=1, stage="detection")

    found: list[Found] = []
    for first in range(0, len(test), 8):
        index = test[first : first + 8]
        pixels = torch.from_numpy(images.read(index)).to(next(method.parameters()).device)
        found += method.detect(pixels, [extents[i] for i in index.tolist()])
    there, C = [truths[i] for i in test.tolist()], len(classes)
    voc, voc07 = (voc_average_precision(found, there, C, points=points) for points in (None, VOC07_POINTS))
    coco = coco_average_precision(found, there, C)
    low, high = resampled(
        lambda at: float(
            np.nanmean(voc_average_precision([found[i] for i in at], [there[i] for i in at], C))
        ),
        len(test),
        job.seed,
    )
    setting = f"side={config.side} scales={','.join(f'{s:g}' for s in config.scales)}"
    at_75 = int(np.abs(COCO_OVERLAPS - 0.75).argmin())
    rows = [
        ("voc_map", setting, np.nanmean(voc)),
        ("voc_map_low", setting, low),
        ("voc_map_high", setting, high),
        ("voc07_map", setting, np.nanmean(voc07)),
        ("coco_map", setting, np.nanmean(coco)),
        ("coco_map75", setting, np.nanmean(coco[at_75])),
        *(
            ("voc_ap", f"class={name}", value)
            for name, value in zip(classes, voc, strict=True)
            if np.isfinite(value)
        ),
    ]
    return Outcome(rows=write_test_scores(job, "detection", rows, len(test)))
