"""Detection: a network's convolutional layers trained further to find objects, and how well they then do."""

from __future__ import annotations

from data.types import Artifact
from tasks.config import Config
from tasks.downstream import ask
from tasks.stage import Job, Outcome, Request, Stage

STAGE = Stage(name="detection", kind="scores", version=1, process="train")


def plan(config: Config, manifest: Artifact, checkpoint: Artifact | None = None, *, model: str) -> Request:
    """Ask for the scores of a detector.

    Args:
        config: of the run.
        manifest: of `evaluate.voc`.
        checkpoint: whose layers start; None: those of an untrained student.
        model: its name in the scores.
    """
    return ask(STAGE, config.evaluate.detection, config, manifest, checkpoint, model)


def build(job: Job) -> Outcome:
    """Train on the training photographs, then find objects in the test photographs."""
    import numpy as np
    import torch

    from data.draws import key
    from data.order import Repeated
    from models.configs.downstream import Detection
    from models.evaluation.boxes import (
        COCO_OVERLAPS,
        VOC07_POINTS,
        Found,
        coco_average_precision,
        voc_average_precision,
    )
    from models.evaluation.detection import DetectionMethod
    from tasks import training
    from tasks.annotated import Photographs, publish, resampled, start

    config = Detection.model_validate(job.settings["training"])
    photographs = Photographs(job, config.side)
    train, test, classes = photographs.rows("train"), photographs.rows("test"), photographs.classes
    truths = {int(i): photographs.truth(int(i)) for i in (*train, *test)}
    extents = {i: photographs.extent(i) for i in truths}
    method = DetectionMethod(config, start(job), truths, extents, len(classes), key(job.seed, "detection"))
    images, order = job.images(config.side, whole=True), Repeated(train, config.batch_size, config.steps)
    feed = training.ImageFeed(images, order, train, None, training.order_key(job, "detection"))
    training.fit(job, method, feed, config, epochs=1, stage="detection")

    found: list[Found] = []
    for first in range(0, len(test), 8):
        index = test[first : first + 8]
        pixels = torch.from_numpy(images.read(index)).to(next(method.parameters()).device)
        found += method.detect(pixels, [extents[i] for i in index.tolist()])
    there, C = [truths[i] for i in test.tolist()], len(classes)
    voc, voc07 = (voc_average_precision(found, there, C, points=points) for points in (None, VOC07_POINTS))
    coco = coco_average_precision(found, there, C)
    low, high = resampled(
        lambda at: float(np.nanmean(voc_average_precision([found[i] for i in at], [there[i] for i in at], C))), len(test), job.seed
    )  # fmt: skip
    setting = f"side={config.side} scales={','.join(f'{s:g}' for s in config.scales)}"
    at_75 = int(np.abs(COCO_OVERLAPS - 0.75).argmin())
    rows = [
        ("voc_map", setting, np.nanmean(voc)),
        ("voc_map_low", setting, low),
        ("voc_map_high", setting, high),
        ("voc07_map", setting, np.nanmean(voc07)),
        ("coco_map", setting, np.nanmean(coco)),
        ("coco_map75", setting, np.nanmean(coco[at_75])),
        *(("voc_ap", f"class={name}", value) for name, value in zip(classes, voc, strict=True) if np.isfinite(value)),
    ]
    return publish(job, "detection", rows, len(test))
