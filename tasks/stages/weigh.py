"""Weigh: judges all classifiers by the drawn labels, and mixes their probabilities as targets.

Each classifier is judged by its out-of-fold predictions alone. Each gets a temperature, then a weight in the
mixture under which the labels are likeliest (`models.evaluation.contenders`). A mixture of calibrated
probabilities is not confident enough (Ranjan and Gneiting 2010), so it gets a temperature, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from data.types import Artifact
from tasks.config import Config
from tasks.job import Job
from tasks.size import Context, Inputs, Size
from tasks.stage import Outcome, Request, Stage, require

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

STAGE = Stage(name="weigh", kind="probabilities", version=1, process="plain")

PRIOR = 5.0
"""Images' worth of evidence for equal weights."""
OWN = 0.9
"""Probability of a drawn label in the targets of its own image; the mixture has the rest."""
MIXTURE = "mixture"
"""Name of the mixture in contenders.parquet."""


def plan(config: Config, labels: Artifact, **contenders: Artifact) -> Request:
    """Request the mixture.

    Args:
        config: the run's configuration.
        labels: the drawn labels.
        **contenders: for each classifier NAME the artifact with its out-of-fold predictions, and as
            `NAME probabilities` its probabilities of train + unlabelled images.
    """
    return STAGE.request(settings={"prior": PRIOR, "own": OWN}, inputs={"labels": labels, **contenders})


def size(run: Context, request: Request, inputs: Inputs) -> Size:
    """Estimate the artifact and its cost for a dry run."""
    first = next(given for name, given in inputs.items() if name.endswith(" probabilities"))
    return Size(first.rows, first.rows * (4 * first.width + 8), width=first.width)


def build(job: Job) -> Outcome:
    """Fit temperatures and weights, write what they are, and mix the probabilities of all images."""
    import numpy as np

    from data import schemas
    from data.tables import VectorWriter, iterate_in_step, positions, write_table
    from models.evaluation.contenders import OutOfFold, mixture_weights, tempered
    from tasks.out_of_fold import read_out_of_fold
    from tasks.rows import drawn_rows

    names = [n for n in job.request.inputs if n != "labels" and not n.endswith(" probabilities")]
    held = {name: read_out_of_fold(job.path(name)) for name in names}
    index, first = held[names[0]]
    require(
        all(np.array_equal(index, other) for other, _ in held.values()),
        "weigh: the classifiers were judged on different images",
    )
    heat = {name: found.temperature for name, (_, found) in held.items()}
    each = np.stack([found.probabilities(heat[name]) for name, (_, found) in held.items()])
    weight = mixture_weights(each, first.label, job.settings["prior"])
    pooled = OutOfFold(first.label, np.log(np.tensordot(weight, each, 1)))
    heat[MIXTURE] = pooled.temperature
    mixed = pooled.probabilities(heat[MIXTURE])
    rows = [_row(name, each[m], first.label, heat[name], float(weight[m])) for m, name in enumerate(names)]
    rows.append(_row(MIXTURE, mixed, first.label, heat[MIXTURE], 1.0))
    write_table(
        job.out / "contenders.parquet",
        {key: [row[key] for row in rows] for key in rows[0]},
        schemas.CONTENDERS,
    )
    for row in rows:
        share = "" if row["accuracy"] is None else f"{row['accuracy']:.1%} right of {row['n']}, "
        job.log(f"{row['model']}: {share}weight {row['weight']:.2f}")
    right = {name: each[m].argmax(1) == first.label for m, name in enumerate(names)} | {
        MIXTURE: mixed.argmax(1) == first.label
    }
    write_table(
        job.out / "right.parquet",
        {
            "index": np.tile(index, len(right)),
            "model": np.repeat(list(right), len(index)),
            "right": np.concatenate(list(right.values())),
        },
        schemas.schema_of({"index": "int64", "model": "string", "right": "bool"}),
    )
    drawn, label = drawn_rows(job.path("labels"))
    n = 0
    with VectorWriter(job.out, schemas.probabilities(each.shape[2])) as out:
        for at, blocks in iterate_in_step([job.path(f"{name} probabilities") for name in names]):
            pool = sum(w * tempered(b, heat[m]) for w, m, b in zip(weight, names, blocks, strict=True))
            p = tempered(pool, heat[MIXTURE])
            here = np.isin(drawn, at)
            own = positions(at, drawn[here], "probabilities of the labelled images")
            p[own] *= 1 - job.settings["own"]
            p[own, label[here]] += job.settings["own"]
            out.write(at, p.astype(np.float32))
            n += len(at)
    return Outcome(rows=n, meta={"weights": dict(zip(names, map(float, weight), strict=True))})


def _row(
    name: str, p: NDArray[np.float64], label: NDArray[np.int64], heat: float, weight: float
) -> dict[str, object]:
    import numpy as np

    from data.intervals import wilson

    n = len(label)
    row: dict[str, object] = {"model": name, "temperature": heat, "weight": weight, "n": n}
    if not n:
        return row | dict.fromkeys(("accuracy", "low", "high", "log_loss"))
    accuracy = float((p.argmax(1) == label).mean())
    low, high = wilson(accuracy, n)
    loss = float(-np.log(np.maximum(p[np.arange(n), label], 1e-12)).mean())
    return row | {"accuracy": accuracy, "low": low, "high": high, "log_loss": loss}
