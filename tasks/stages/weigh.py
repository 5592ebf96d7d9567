"""Weigh: judges all classifiers by the drawn labels, and mixes their probabilities as targets.

Each classifier is judged by its out-of-fold predictions alone. Each gets a temperature, then a weight in the
mixture under which the labels are likeliest (`models.evaluation.contenders`). A mixture of calibrated
probabilities is not confident enough (Ranjan and Gneiting 2010), so it gets a temperature, too. Classifiers
that learned all labels know more than those of the folds, so what is published has lower temperatures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from data.types import Artifact
from tasks.config import Config
from tasks.job import Job
from tasks.size import Context, Inputs, Size
from tasks.stage import Outcome, Request, Stage, require

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from models.evaluation.contenders import OutOfFold

STAGE = Stage(name="weigh", kind="probabilities", version=3, process="plain")

PRIOR = 5.0
"""Images' worth of evidence for equal weights."""


def plan(config: Config, labels: Artifact, **contenders: Artifact) -> Request:
    """Request the mixture.

    Args:
        config: the run's configuration.
        labels: the drawn labels.
        **contenders: for each classifier NAME the artifact with its out-of-fold predictions, and as
            `NAME probabilities` its probabilities of train + unlabelled images.
    """
    from tasks.judged import OWN

    settings: dict[str, Any] = {"prior": PRIOR, "own": OWN, "folds": config.ship.folds}
    if config.finetune.balanced:
        settings["balanced"] = True
    return STAGE.request(settings=settings, inputs={"labels": labels, **contenders})


def size(run: Context, request: Request, inputs: Inputs) -> Size:
    """Estimate the artifact and its cost for a dry run."""
    first = next(given for name, given in inputs.items() if name.endswith(" probabilities"))
    return Size(first.rows, first.rows * (4 * first.width + 8), width=first.width)


def build(job: Job) -> Outcome:
    """Fit temperatures and weights, write what they are, and mix the probabilities of all images."""
    import numpy as np

    from data import schemas
    from data.tables import VectorWriter, iterate_in_step, positions
    from models.evaluation.contenders import OutOfFold, for_all_labels, mixture_weights, tempered
    from tasks.judged import MIXTURE, Judged, write_judged
    from tasks.out_of_fold import read_out_of_fold
    from tasks.rows import drawn_rows

    balanced = job.settings.get("balanced", False)
    names = [n for n in job.request.inputs if n != "labels" and not n.endswith(" probabilities")]
    read = {name: read_out_of_fold(job.path(name), balanced) for name in names}
    index, first = read[names[0]]
    require(
        all(np.array_equal(index, other) for other, _ in read.values()),
        "weigh: the classifiers were judged on different images",
    )
    held = {name: found for name, (_, found) in read.items()}
    each = np.stack([found.probabilities(found.temperature) for found in held.values()])
    weight = mixture_weights(each, first.label, job.settings["prior"], first.weight)
    held[MIXTURE] = OutOfFold(first.label, np.log(np.tensordot(weight, each, 1)), balanced)
    drawn, label = drawn_rows(job.path("labels"))
    heat = {name: found.temperature for name, found in held.items()}
    judged, folds = len(first.label), job.settings["folds"]
    final = {name: for_all_labels(t, label, judged, folds) for name, t in heat.items()}
    loss = {name: _loss(found) for name, found in held.items()}
    rows = {
        name: _row(name, held[name], loss[name], w) | {"temperature": final[name]}
        for name, w in zip(held, [*map(float, weight), 1.0], strict=True)
    }
    right = {name: found.right for name, found in held.items()}
    write_judged(job.out, Judged(rows, index, right, loss, first.weight))
    for row in rows.values():
        share = "" if row["accuracy"] is None else f"{row['accuracy']:.1%} right of {row['n']}, "
        job.log(f"{row['model']}: {share}weight {row['weight']:.2f}")
    n = 0
    with VectorWriter(job.out, schemas.probabilities(each.shape[2])) as out:
        for at, blocks in iterate_in_step([job.path(f"{name} probabilities") for name in names]):
            pool = sum(w * tempered(b, heat[m]) for w, m, b in zip(weight, names, blocks, strict=True))
            p = tempered(pool, final[MIXTURE])
            here = np.isin(drawn, at)
            own = positions(at, drawn[here], "probabilities of the labelled images")
            p[own] *= 1 - job.settings["own"]
            p[own, label[here]] += job.settings["own"]
            out.write(at, p.astype(np.float32))
            n += len(at)
    return Outcome(rows=n, meta={"weights": dict(zip(names, map(float, weight), strict=True))})


def _loss(held: OutOfFold) -> NDArray[np.float64]:
    """(n,) -ln of the label's probability."""
    import numpy as np

    p = held.probabilities(held.temperature)[np.arange(len(held.label)), held.label]
    found: NDArray[np.float64] = -np.log(np.maximum(p, 1e-12))
    return found


def _row(name: str, held: OutOfFold, loss: NDArray[np.float64], weight: float) -> dict[str, Any]:
    """A row of contenders.parquet without its temperature: the weight, and how it did out of fold."""
    import numpy as np

    from data.intervals import wilson

    n = len(held.label)
    row: dict[str, Any] = {"model": name, "weight": weight, "n": n}
    if not n:
        return row | dict.fromkeys(("accuracy", "low", "high", "log_loss"))
    # Images that count differently say less than as many that count the same (Kish's effective sample size).
    low, high = wilson(held.accuracy, max(1, round(n / float(np.mean(held.weight**2)))))
    log_loss = float(np.average(loss, weights=held.weight))
    return row | {"accuracy": held.accuracy, "low": low, "high": high, "log_loss": log_loss}
