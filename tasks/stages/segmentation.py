"""Segmentation: trains a network's convolutional layers further to label pixels, and measures the result."""

from __future__ import annotations

from data.types import Artifact
from tasks.config import Config
from tasks.further_training import ask_further, size_further
from tasks.job import Job
from tasks.stage import Leaf, Outcome, Request

STAGE = Leaf(
    name="segmentation",
    kind="scores",
    version=1,
    process="train",
    reads=("photographs", "checkpoint"),
    title="Segmentation, trained further",
)


def plan(config: Config, photographs: Artifact, checkpoint: Artifact | None = None, *, model: str) -> Request:
    """Request the scores of a segmentation network.

    Args:
        config: the run's configuration.
        photographs: the manifest of `evaluate.voc`.
        checkpoint: the network to start from; None: an untrained student.
        model: the model's name in the scores.
    """
    return ask_further(STAGE, config.evaluate.segmentation, config, photographs, checkpoint, model)


size = size_further


def build(job: Job) -> Outcome:
    """Train on the training photographs that have a mask, then classify the pixels of the test photographs.

    Raises:
        DataError: no training photograph or no test photograph has a mask.
    """
    import numpy as np
    import torch

    from data.draws import key
    from data.errors import DataError
    from data.order import Repeated
    from data.voc import VOID
    from models.configs.evaluations import Segmentation
    from models.evaluation.masks import Confusion
    from models.evaluation.segmentation import SegmentationMethod
    from tasks.annotated import Photographs, resampled, start
    from tasks.feed import ImageFeed, order_key
    from tasks.fit import fit
    from tasks.scoring import write_test_scores

    config = Segmentation.model_validate(job.settings["training"])
    photographs = Photographs(job, config.side)
    splits = {split: photographs.rows(split) for split in ("train", "test")}
    drawn = {int(i): photographs.mask(int(i)) for rows in splits.values() for i in rows}
    masks = {i: mask for i, mask in drawn.items() if mask is not None}
    train, test = (np.array([i for i in rows.tolist() if i in masks], np.int64) for rows in splits.values())
    if not len(train) or not len(test):
        raise DataError(
            f"{job.request.outside['sources']['train']}: no masks of {'train' if not len(train) else 'test'} "
            "photographs; segmentation needs SegmentationClass/*.png"
        )
    C = 1 + max(int(mask[mask != VOID].max(initial=0)) for mask in masks.values())
    method = SegmentationMethod(config, start(job), masks, C, key(job.seed, "segmentation"))
    images, order = job.images(config.side, whole=True), Repeated(train, config.batch_size, config.steps)
    feed = ImageFeed(images, order, train, None, order_key(job, "segmentation"))
    fit(job, method, feed, config, epochs=1, stage="segmentation")

    each: list[Confusion] = []
    for first in range(0, len(test), 8):
        index = test[first : first + 8]
        pixels = torch.from_numpy(images.read(index)).to(next(method.parameters()).device)
        for i, found in zip(index.tolist(), method.segment(pixels).cpu().numpy(), strict=True):
            each.append(Confusion(C))
            each[-1].add(found, masks[i])

    def together(at: np.ndarray) -> Confusion:
        total = Confusion(C)
        total.counts += np.sum([each[i].counts for i in at], axis=0)
        return total

    whole = together(np.arange(len(test)))
    low, high = resampled(lambda at: float(np.nanmean(together(at).overlaps())), len(test), job.seed)
    setting = f"side={config.side}"
    rows = [
        ("miou", setting, np.nanmean(whole.overlaps())),
        ("miou_low", setting, low),
        ("miou_high", setting, high),
        ("pixel_accuracy", setting, whole.accuracy()),
        *(("iou", f"class={c}", value) for c, value in enumerate(whole.overlaps()) if np.isfinite(value)),
    ]
    return Outcome(rows=write_test_scores(job, "segmentation", rows, len(test)))
