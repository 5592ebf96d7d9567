"""Average precision of object detection and of multi-label classification, as PASCAL VOC and COCO define it.

Boxes are (n, 4) float px: left, top, right, bottom. The last two are exclusive, so that VOC's inclusive
pixels give the same overlaps. Objects marked difficult need not be found, and finding one is not an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

COCO_OVERLAPS = np.linspace(0.5, 0.95, 10)
COCO_POINTS = np.linspace(0.0, 1.0, 101)
VOC07_POINTS = np.linspace(0.0, 1.0, 11) - 1e-12
"""Recalls of VOC07. A recall equal to one counts as reached. For COCO, rounding decides, as in its code."""
COCO_MOST = 100
"""Number of detections per image that COCO counts."""


@dataclass(frozen=True)
class Found:
    """What a detector found in an image: n boxes with classes and confidences."""

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    scores: NDArray[np.float32]


@dataclass(frozen=True)
class Truth:
    """The objects in an image: n boxes with classes, some of them difficult."""

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    difficult: NDArray[np.bool_]


def overlap(a: NDArray[np.float32], b: NDArray[np.float32]) -> Floats:
    """(n, 4), (m, 4) -> (n, m) intersection over union, 0 to 1."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    inside = np.clip(high - low, 0, None).prod(axis=2)
    areas = [np.clip(x[:, 2:] - x[:, :2], 0, None).prod(axis=1) for x in (a, b)]
    union = areas[0][:, None] + areas[1][None] - inside
    result: Floats = np.divide(inside, union, out=np.zeros_like(inside), where=union > 0)
    return result


def voc_average_precision(
    found: Sequence[Found],
    truth: Sequence[Truth],
    classes: int,
    *,
    least: float = 0.5,
    points: Floats | None = None,
) -> Floats:
    """PASCAL VOC's average precision of each class.

    A class's detections of all images are judged by falling confidence. A detection is right if it overlaps
    an object by at least `least`, and if that object, the one it overlaps most, was not found before.
    Detections of difficult objects don't count.

    Args:
        found: one item per image.
        truth: one item per image, in the same order.
        classes: C.
        least: smallest overlap of a right detection.
        points: recalls at which precision is averaged, such as `VOC07_POINTS`; None: the area under the
            curve, as VOC defines it from 2010 on.

    Returns:
        (C,), nan for a class without an object that counts.
    """
    result = np.full(classes, np.nan)
    for c in range(classes):
        wanted, scores, right, counts = 0, [], [], []
        for seen, there in zip(found, truth, strict=True):
            own, mine = there.labels == c, seen.labels == c
            boxes, difficult = there.boxes[own], there.difficult[own]
            wanted += int((~difficult).sum())
            order = np.argsort(-seen.scores[mine], kind="stable")
            overlaps = overlap(seen.boxes[mine][order], boxes)
            taken = np.zeros(len(boxes), bool)
            for row in overlaps:
                best = int(row.argmax()) if len(row) else -1
                hit = best >= 0 and row[best] >= least
                counts.append(not (hit and difficult[best]))
                right.append(bool(hit and not taken[best]))
                if hit:
                    taken[best] = True
            scores += seen.scores[mine][order].tolist()
        if wanted:
            counted = np.array(counts, bool)
            result[c] = _average_precision(
                np.array(scores)[counted], np.array(right, bool)[counted], wanted, points
            )
    return result


def coco_average_precision(found: Sequence[Found], truth: Sequence[Truth], classes: int) -> Floats:
    """COCO's average precision of each class at overlaps from 0.5 to 0.95, over 101 recalls.

    In an image, the detections of a class are judged by falling confidence, at most the 100 most confident
    ones. Each takes the object that it overlaps most, of those not yet taken. Difficult objects are ignored
    in the way in which COCO ignores objects outside a range of areas.

    Returns:
        (10, C), nan for a class without an object that counts.
    """
    result = np.full((len(COCO_OVERLAPS), classes), np.nan)
    for c in range(classes):
        wanted = 0
        scores: list[Floats] = []
        right: list[NDArray[np.bool_]] = []  # (10, n) for each image
        counts: list[NDArray[np.bool_]] = []
        for seen, there in zip(found, truth, strict=True):
            own, mine = there.labels == c, seen.labels == c
            wanted += int((~there.difficult[own]).sum())
            order = np.argsort(-seen.scores[mine], kind="stable")[:COCO_MOST]
            overlaps = overlap(seen.boxes[mine][order], there.boxes[own])
            matched = [_matches(overlaps, there.difficult[own], least) for least in COCO_OVERLAPS]
            scores.append(seen.scores[mine][order].astype(np.float64))
            right.append(np.stack([hit for hit, _ in matched]))
            counts.append(np.stack([counted for _, counted in matched]))
        if wanted:
            of_all, hits, counted = (
                np.concatenate(scores),
                np.concatenate(right, 1),
                np.concatenate(counts, 1),
            )
            for i in range(len(COCO_OVERLAPS)):
                kept = counted[i]
                result[i, c] = _average_precision(of_all[kept], hits[i][kept], wanted, COCO_POINTS)
    return result


def _matches(
    overlaps: Floats, difficult: NDArray[np.bool_], least: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(n, m) overlaps of detections and objects in an image -> which detections are right, which count."""
    n, m = overlaps.shape
    right, counts, taken = np.zeros(n, bool), np.ones(n, bool), np.zeros(m, bool)
    for i in range(n):
        free = (overlaps[i] >= min(least, 1 - 1e-10)) & ~taken
        for kind in (~difficult, difficult):  # objects that count come before difficult ones
            able = free & kind
            if able.any():
                best = int(np.where(able, overlaps[i], -1).argmax())
                taken[best] = True
                right[i], counts[i] = not difficult[best], not difficult[best]
                break
    return right, counts


def multilabel_average_precision(
    scores: NDArray[np.float32], labels: NDArray[np.int64], *, points: Floats | None = None
) -> Floats:
    """PASCAL VOC's average precision of image classification, for each class.

    Args:
        scores: (N, C) confidences.
        labels: (N, C) 1 present, 0 absent, -1 only difficult objects, which don't count.
        points: as for `voc_average_precision`.

    Returns:
        (C,), nan for a class that no image has.
    """
    result = np.full(scores.shape[1], np.nan)
    for c in range(scores.shape[1]):
        known = labels[:, c] >= 0
        right = labels[known, c] == 1
        if right.any():
            result[c] = _average_precision(scores[known, c], right, int(right.sum()), points)
    return result


def _average_precision(
    scores: NDArray[np.floating], right: NDArray[np.bool_], wanted: int, points: Floats | None
) -> float:
    """Average precision of n answers with given scores, if there are `wanted` right ones in all."""
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(right[order])
    recall = hits / wanted
    precision = hits / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1] if len(precision) else precision
    if points is None:
        return float((np.diff(recall, prepend=0.0) * envelope).sum())
    at = np.searchsorted(recall, points, side="left")
    padded = np.append(envelope, 0.0)
    return float(padded[np.minimum(at, len(envelope))].mean())
