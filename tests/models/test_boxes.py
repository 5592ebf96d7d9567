"""Average precision against closed forms, a slow rewrite, and torchmetrics with COCO's evaluation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.evaluation.boxes import (
    COCO_OVERLAPS,
    VOC07_POINTS,
    Found,
    Truth,
    coco_average_precision,
    multilabel_average_precision,
    overlap,
    voc_average_precision,
)

CLASSES = 3


def scene(seed: int, images: int = 12) -> tuple[list[Found], list[Truth]]:
    """Random objects and detections. Detections are shifted, doubled, of a wrong class or near nothing."""
    g = np.random.default_rng(seed)
    found, truth = [], []
    for _ in range(images):
        n = int(g.integers(0, 6))
        corner = g.uniform(0, 80, (n, 2))
        boxes = np.concatenate([corner, corner + g.uniform(5, 40, (n, 2))], 1).astype(np.float32)
        labels, difficult = g.integers(0, CLASSES, n), g.random(n) < 0.2
        truth.append(Truth(boxes, labels, difficult))
        again = g.integers(0, n, int(g.integers(0, 2 * n + 1))) if n else np.zeros(0, int)
        shaken = np.sort((boxes[again] + g.normal(0, 3, (len(again), 4))).reshape(-1, 2, 2), axis=1).reshape(
            -1, 4
        )
        strange = g.uniform(0, 80, (int(g.integers(0, 4)), 2))
        wild = np.concatenate([strange, strange + g.uniform(5, 40, strange.shape)], 1)
        seen = np.concatenate([shaken, wild]).astype(np.float32)
        kinds = np.concatenate([labels[again], g.integers(0, CLASSES, len(wild))]).astype(np.int64)
        swapped = g.random(len(kinds)) < 0.1
        kinds[swapped] = g.integers(0, CLASSES, int(swapped.sum()))
        found.append(Found(seen, kinds, g.random(len(seen)).astype(np.float32)))
    return found, truth


def test_overlaps_are_torchvisions() -> None:
    from torchvision.ops import box_iou

    found, truth = scene(0)
    for seen, there in zip(found, truth, strict=True):
        expected = box_iou(torch.from_numpy(seen.boxes).double(), torch.from_numpy(there.boxes).double())
        np.testing.assert_allclose(overlap(seen.boxes, there.boxes), expected.numpy(), atol=1e-9)
    empty = np.zeros((1, 4), np.float32)
    assert overlap(empty, empty) == 0  # no area, no overlap, no warning


def rewritten(found: list[Found], truth: list[Truth], c: int, least: float, points: int | None) -> float:
    """VOCevaldet and VOCap of PASCAL's devkit, rewritten line by line."""
    wanted = sum(int((~t.difficult[t.labels == c]).sum()) for t in truth)
    rows = sorted(
        (
            (float(s), i, b)
            for i, f in enumerate(found)
            for s, b, k in zip(f.scores, f.boxes, f.labels, strict=True)
            if k == c
        ),
        key=lambda row: -row[0],
    )
    taken: set[tuple[int, int]] = set()
    tp, fp, recall, precision = 0, 0, [], []
    for _, i, (left, top, right, bottom) in rows:
        best, at = -1.0, None
        for j, (box, label) in enumerate(zip(truth[i].boxes.tolist(), truth[i].labels, strict=True)):
            if label != c:
                continue
            width, height = min(right, box[2]) - max(left, box[0]), min(bottom, box[3]) - max(top, box[1])
            if width > 0 and height > 0:
                union = (
                    (right - left) * (bottom - top) + (box[2] - box[0]) * (box[3] - box[1]) - width * height
                )
                if width * height / union > best:
                    best, at = width * height / union, j
        if at is not None and best >= least:
            if truth[i].difficult[at]:
                continue
            if (i, at) in taken:
                fp += 1
            else:
                taken.add((i, at))
                tp += 1
        else:
            fp += 1
        recall.append(tp / wanted)
        precision.append(tp / (tp + fp))
    if points is not None:
        total = 0.0
        for k in range(points):
            reached = k / (points - 1) - 1e-12
            total += max((p for r, p in zip(recall, precision, strict=True) if r >= reached), default=0.0)
        return total / points
    area, before = 0.0, 0.0
    for k, r in enumerate(recall):
        area += (r - before) * max(precision[k:])
        before = r
    return area


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("points", [None, 11])
def test_vocs_definition(seed: int, points: int | None) -> None:
    found, truth = scene(seed)
    for least in (0.5, 0.7):
        given = voc_average_precision(
            found, truth, CLASSES, least=least, points=None if points is None else VOC07_POINTS
        )
        expected = [rewritten(found, truth, c, least, points) for c in range(CLASSES)]
        np.testing.assert_allclose(given, expected, atol=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_cocos_own_evaluation(seed: int) -> None:
    from torchmetrics.detection import MeanAveragePrecision

    found, truth = scene(seed, images=20)
    truth = [Truth(t.boxes, t.labels, np.zeros(len(t.labels), bool)) for t in truth]
    # its default thresholds are float32, so that a recall of exactly 0.6 misses 0.6
    thresholds = {"iou_thresholds": COCO_OVERLAPS.tolist(), "rec_thresholds": np.linspace(0, 1, 101).tolist()}
    coco = MeanAveragePrecision(backend="faster_coco_eval", class_metrics=True, **thresholds)  # type: ignore[arg-type]
    coco.update(
        [
            {
                "boxes": torch.from_numpy(f.boxes),
                "labels": torch.from_numpy(f.labels),
                "scores": torch.from_numpy(f.scores),
            }
            for f in found
        ],
        [{"boxes": torch.from_numpy(t.boxes), "labels": torch.from_numpy(t.labels)} for t in truth],
    )
    expected = coco.compute()
    given = coco_average_precision(found, truth, CLASSES)
    assert np.nanmean(given) == pytest.approx(float(expected["map"]), abs=1e-6)
    assert np.nanmean(given[0]) == pytest.approx(float(expected["map_50"]), abs=1e-6)
    assert np.nanmean(given[5]) == pytest.approx(float(expected["map_75"]), abs=1e-6)
    assert pytest.approx(0.75) == COCO_OVERLAPS[5]
    np.testing.assert_allclose(given.mean(axis=0), expected["map_per_class"].numpy(), atol=1e-6)


def box(*corners: float) -> np.ndarray:
    return np.array([corners], np.float32).reshape(-1, 4)


def test_a_closed_form() -> None:
    """The first and third detection are right, the second is wrong.

    Precisions are 1, 1/2 and 2/3 at recalls 1/2, 1/2 and 1.
    """
    objects = np.concatenate([box(0, 0, 10, 10), box(50, 50, 60, 60)])
    seen = np.concatenate([box(0, 0, 10, 10), box(80, 80, 90, 90), box(50, 50, 60, 60)])
    found = [Found(seen, np.zeros(3, np.int64), np.array([0.9, 0.8, 0.7], np.float32))]
    truth = [Truth(objects, np.zeros(2, np.int64), np.zeros(2, bool))]
    assert voc_average_precision(found, truth, 1)[0] == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert voc_average_precision(found, truth, 1, points=VOC07_POINTS)[0] == pytest.approx(
        (6 * 1 + 5 * 2 / 3) / 11
    )
    np.testing.assert_allclose(coco_average_precision(found, truth, 1)[:, 0], (51 * 1 + 50 * 2 / 3) / 101)
    twice = [
        Found(
            np.concatenate([seen, seen[:1]]),
            np.zeros(4, np.int64),
            np.array([0.9, 0.8, 0.7, 0.85], np.float32),
        )
    ]
    assert voc_average_precision(twice, truth, 1)[0] == pytest.approx(
        0.5 * 1 + 0.5 * 2 / 4
    )  # a second detection of an object is wrong


def test_difficult_objects_are_neither_missed_nor_wrong() -> None:
    objects = np.concatenate([box(0, 0, 10, 10), box(50, 50, 60, 60)])
    truth = [Truth(objects, np.zeros(2, np.int64), np.array([False, True]))]
    both = [Found(objects, np.zeros(2, np.int64), np.array([0.5, 0.9], np.float32))]
    one = [Found(objects[:1], np.zeros(1, np.int64), np.array([0.5], np.float32))]
    for found in (both, one):
        assert voc_average_precision(found, truth, 1)[0] == pytest.approx(1)
        np.testing.assert_allclose(coco_average_precision(found, truth, 1), 1)
    nothing = [Found(objects[:0], np.zeros(0, np.int64), np.zeros(0, np.float32))]
    assert voc_average_precision(nothing, truth, 1)[0] == 0
    hard = [Truth(objects, np.zeros(2, np.int64), np.array([True, True]))]
    assert np.isnan(voc_average_precision(both, hard, 1)[0])
    assert np.isnan(coco_average_precision(both, hard, 1)).all()


def test_scores_only_count_by_their_order() -> None:
    found, truth = scene(3)
    other = [Found(f.boxes, f.labels, (f.scores**3 / 2).astype(np.float32)) for f in found]
    np.testing.assert_array_equal(
        voc_average_precision(found, truth, CLASSES), voc_average_precision(other, truth, CLASSES)
    )
    backwards = found[::-1], truth[::-1]
    np.testing.assert_allclose(
        voc_average_precision(*backwards, CLASSES), voc_average_precision(found, truth, CLASSES)
    )


def test_classes_of_an_image() -> None:
    scores = np.array([[0.9, 0.1], [0.8, 0.9], [0.7, 0.2], [0.6, 0.3]], np.float32)
    labels = np.array([[1, 0], [0, 0], [1, 0], [-1, 0]])
    given = multilabel_average_precision(scores, labels)
    assert given[0] == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)  # the fourth image does not count
    assert np.isnan(given[1])
    eleven = multilabel_average_precision(scores, labels, points=VOC07_POINTS)
    assert eleven[0] == pytest.approx((6 + 5 * 2 / 3) / 11)
