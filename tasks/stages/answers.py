"""Answers: predicts every test image with the model that ships, and measures how good its confidence is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from data.types import Artifact
from tasks.config import Config
from tasks.job import Job
from tasks.size import Context, Inputs, Size, cost_of, images_of
from tasks.sources import sources
from tasks.stage import Outcome, Request, Stage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

STAGE = Stage(name="answers", kind="answers", version=1, process="train")
EVALUATION = "shipped"
"""Name of this evaluation in the scores."""
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
"""The accuracy of the most confident answers is measured for each of these shares of the test images."""


def plan(config: Config, manifest: Artifact, checkpoint: Artifact, *, model: str) -> Request:
    """Request the answers.

    Args:
        config: the run's configuration.
        manifest: the manifest of the run's images.
        checkpoint: a network with a classifier of the manifest's classes, or an adopted export.
        model: the model's name in the scores.
    """
    return STAGE.request(
        settings={
            "model": model,
            "image_size": config.data.image_size,
            "precision": config.compute.precision,
        },
        inputs={"manifest": manifest, "checkpoint": checkpoint},
        parts=("test", "test_labels"),
        seed=config.seed,
        outside={"sources": sources(config)},
    )


def size(run: Context, request: Request, inputs: Inputs) -> Size:
    """Estimate the artifact and its cost for a dry run."""
    test = images_of(inputs).test
    return Size(test, 24 * test, test * cost_of(inputs).forward)


def build(job: Job) -> Outcome:
    """Compute softmax(logits / temperature) of every test image. Score the images that have a label."""
    from data.checkpoints import read_description
    from data.schemas import ANSWERS
    from data.tables import write_table
    from models.evaluation.calibration import ranked, softmax
    from tasks.embedding import logits
    from tasks.rows import manifest_rows
    from tasks.scoring import write_scores

    temperature = float(read_description(job.path("checkpoint")).get("temperature", 1.0))
    index, label = manifest_rows(job.path("manifest"), ("test",))
    probability = softmax(logits(job, index), temperature)
    best, confidence = ranked(probability, 2)
    columns = {
        "index": index,
        "label": [None if each < 0 else each for each in label.tolist()],
        "predicted": best[:, 0],
        "confidence": confidence[:, 0],
        "runner_up": best[:, 1],
        "runner_up_confidence": confidence[:, 1],
    }
    rows = write_table(job.out / "answers.parquet", columns, ANSWERS)
    known, names = label >= 0, job.meta("manifest")["classes"]
    scores = _scores(probability[known], label[known], names, job.seed) if known.any() else ()
    model, seed = job.settings["model"], job.seed
    write_scores(
        job,
        [
            (EVALUATION, model, metric, "test", setting, value, seed, n)
            for metric, setting, value, n in scores
        ],
    )
    return Outcome(rows=rows, meta={"temperature": temperature})


def _scores(
    probability: NDArray[np.float64], label: NDArray[np.int64], names: list[str], seed: int
) -> Iterator[tuple[str, str, float, int]]:
    """Yield (metric, setting, value, n). n is the number of images that a value was measured on."""
    import numpy as np

    from data.draws import key
    from models.evaluation import calibration, classes

    predicted, confidence, n = probability.argmax(1), probability.max(1), len(label)
    right, matrix = predicted == label, classes.confusion(label, predicted, len(names))
    yield "top1", "", float(right.mean()), n
    yield "balanced_accuracy", "", classes.balanced_accuracy(matrix), n
    yield "macro_f1", "", classes.macro_f1(matrix), n
    yield "mean_confidence", "", float(confidence.mean()), n
    yield "log_loss", "", calibration.log_loss(probability, label), n
    yield "brier", "", calibration.brier(probability, label), n
    found = calibration.bins(confidence, right)
    setting = f"bins={len(found)}"
    yield "calibration_error", setting, calibration.calibration_error(found), n
    ends = calibration.calibration_interval(confidence, right, seed=key(seed, "calibration"))
    yield "calibration_error_low", setting, ends[0], n
    yield "calibration_error_high", setting, ends[1], n
    yield "expected_calibration_error", setting, calibration.expected_calibration_error(found), n
    for part in calibration.answered(confidence, right, SHARES):
        yield "selective_accuracy", f"share={part.share:g}", part.accuracy, part.n
    of_class = {
        "recall": (classes.recall(matrix), matrix.sum(axis=1)),
        "precision": (classes.precision(matrix), matrix.sum(axis=0)),
    }
    for metric, (values, counts) in of_class.items():
        for name, value, images in zip(names, values.tolist(), counts.tolist(), strict=True):
            if not np.isnan(value):
                yield metric, f"class={name}", value, images
