"""Ship: chooses the model that a run hands over, by labels alone, and makes its probabilities believable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from data.types import Artifact
from tasks.config import Config
from tasks.job import Job
from tasks.phrases import percent
from tasks.size import Context, Inputs, Size, cost_of, trained
from tasks.sources import sources
from tasks.stage import Outcome, Request, Stage

STAGE = Stage(name="ship", kind="checkpoint", version=1, process="train")

STUDENT = "student"
"""Name of the final student among the candidates. It learned the mixture of all others."""
LOOK = 4096
"""Maximum number of images on which the student is compared with the mixture, if it has learned them all."""
FEWEST = 3
"""If no class has this many labels, candidates are not compared, because chance would decide."""
NOT_CANDIDATES = ("manifest", "labels", "mixture")
"""Inputs that are no models."""


def plan(
    config: Config,
    manifest: Artifact,
    labels: Artifact,
    mixture: Artifact | None = None,
    **candidates: Artifact,
) -> Request:
    """Request the shipped model.

    Args:
        config: the run's configuration.
        manifest: the manifest of the run's images.
        labels: the drawn labels.
        mixture: what `weigh` found out about the candidates; None: nothing is compared, and the only
            candidate is shipped.
        **candidates: checkpoints by name.
    """
    settings: dict[str, Any] = {
        "image_size": config.data.image_size,
        "precision": config.compute.precision,
    }
    inputs = {"manifest": manifest, "labels": labels, **candidates}
    if mixture is None:
        assert len(candidates) == 1
        settings["temperature"] = config.distill.temperature if STUDENT in candidates else 1.0
    else:
        inputs["mixture"] = mixture
    return STAGE.request(
        settings=settings,
        inputs=inputs,
        parts=("train", "unlabelled"),
        seed=config.seed,
        outside={"sources": sources(config)},
    )


def size(run: Context, request: Request, inputs: Inputs) -> Size:
    """Estimate the artifact and its cost for a dry run."""
    cost = cost_of(inputs, next(name for name in request.inputs if name not in NOT_CANDIDATES))
    return trained(cost, LOOK * cost.forward if "mixture" in request.inputs else 0.0)


@dataclass(frozen=True)
class Choice:
    """A chosen candidate.

    Attributes:
        name: its name.
        because: why, as a sentence.
        temperature: T of its probabilities, softmax(logits / T).
    """

    name: str
    because: str
    temperature: float


def build(job: Job) -> Outcome:
    """Choose a candidate and publish a copy of it with its temperature."""
    from models.progress import History
    from models.saved import load
    from tasks.fit import Trained, publish

    names = [name for name in job.request.inputs if name not in NOT_CANDIDATES]
    if "mixture" in job.request.inputs:
        chosen = _compare(job, names)
    else:
        because = "the candidates were not compared, because ship.compare is off"
        chosen = Choice(names[0], because, job.settings["temperature"])
    job.log(f"ships {chosen.name}: {chosen.because}")
    shipped = {"model": chosen.name, "because": chosen.because}
    outcome = publish(
        job,
        load(job.path(chosen.name)),
        Trained(History([], 0, 0, 0.0, 0.0), []),
        temperature=chosen.temperature,
        shipped=shipped,
    )
    outcome.meta |= {"shipped": shipped, "temperature": chosen.temperature}
    return outcome


def _compare(job: Job, names: list[str]) -> Choice:
    """Ship the final student, unless the labels say that another candidate is better.

    The student has learned every label, so labels can't judge it. We expect it to be right as often as the
    mixture that it learned, less what it lost (`_student`). Another candidate ships if it was right more
    often than that, by more than one standard error of its lead over the mixture.
    """
    import numpy as np

    from tasks.judged import MIXTURE, read_judged
    from tasks.rows import drawn_rows

    judged = read_judged(job.path("mixture"))
    rows, label = judged.rows, drawn_rows(job.path("labels"))[1]
    most = int(np.bincount(label).max())
    temperature, kept = _student(job) if STUDENT in names else (1.0, 0.0)
    known = [name for name in names if name in rows and rows[name]["n"]]
    if most < FEWEST or not known:
        name = STUDENT if STUDENT in names else names[0]
        rule = f"with at most {most} labels per class, candidates can't be compared, so {name} is shipped"
        return Choice(name, rule, temperature if name == STUDENT else rows[name]["temperature"])
    best = max(known, key=lambda name: (rows[name]["accuracy"], -rows[name]["log_loss"]))
    said = f"it was right about {percent(rows[best]['accuracy'], 0)} of {rows[best]['n']} labels out of fold"
    if STUDENT not in names:
        return Choice(best, f"{said}, more than any other", rows[best]["temperature"])
    expected = rows[MIXTURE]["accuracy"] * kept
    _, error = judged.ahead(best, MIXTURE)
    if rows[best]["accuracy"] - expected > error:
        because = f"{said}; the final student is expected to be right about {percent(expected, 0)}"
        return Choice(best, because, rows[best]["temperature"])
    because = (
        f"the mixture that it learned was right about {percent(rows[MIXTURE]['accuracy'], 0)} of "
        f"{rows[MIXTURE]['n']} labels out of fold; the best single candidate, {best}, about "
        f"{percent(rows[best]['accuracy'], 0)}"
    )
    return Choice(STUDENT, because, temperature)


def _student(job: Job) -> tuple[float, float]:
    """The student's temperature, and the share of the mixture's accuracy that it has kept (0.5 to 1).

    The mixture's probabilities were fitted to labels out of fold, so they can be believed. The student gets
    the temperature at which its probabilities are nearest to them, on images that it did not learn. With few
    images it has learned them all. Then those whose label it was not told are taken.

    Where both name the same class, the student is right as often as the mixture. Where they differ, the
    mixture is right with its probability p of its own class, and by its account the student with its
    probability q of the student's class. A student often corrects what it learned, so we take the mean of p
    and q. The share is then (mean of p + mean of q) / (2 mean of p) over all images.
    """
    import numpy as np

    from data.draws import key, permutation
    from data.tables import read_vectors
    from models.evaluation.contenders import temperature
    from models.saved import load
    from tasks.embedding import embed
    from tasks.rows import drawn_rows
    from tasks.unseen import read_unseen

    index, target = read_vectors(job.path("mixture"))
    drawn, _ = drawn_rows(job.path("labels"))
    free = np.flatnonzero(np.isin(index, read_unseen(job.path(STUDENT))))
    if not len(free):
        free = np.flatnonzero(~np.isin(index, drawn))
    if not len(free):
        free = np.arange(len(index))
    some = np.sort(free[permutation(key(job.seed, "ship"), len(free))[:LOOK]])
    logits = embed(job, load(job.path(STUDENT)), index[some], "logits")
    p = target[some].astype(np.float64)
    own, students = p.max(axis=1).mean(), p[np.arange(len(p)), logits.argmax(1)].mean()
    return temperature(logits, p), float((own + students) / (2 * own))
