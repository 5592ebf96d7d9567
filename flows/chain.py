"""The chain: which stages there are, in which order, and what each reads. No arithmetic, no Prefect.

`chain(config, step, look)` calls `step(label, plan, **inputs)` for every stage. What `step` answers with stands for an
artifact that may not exist yet (a future in the flow) and may be given as an input to later stages.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from data.types import Artifact
from tasks import (
    assign,
    cluster,
    distill,
    embed,
    evaluate,
    finetune,
    labels,
    manifest,
    predict,
    pretext,
    propagate,
    report,
    scores,
    transfer,
)
from tasks.config import Config
from tasks.stage import Request

Handle = Any
Plan = Callable[..., Request | Artifact]


class Step(Protocol):
    """Makes a stage's artifact once its inputs exist."""

    def __call__(self, label: str, plan: Plan, /, *, after: Handle = None, **inputs: Handle) -> Handle:
        """Ask for `plan(**inputs)`.

        Args:
            label: the stage's name in this run.
            plan: a function of artifacts (by keyword) that returns the request, or an artifact that is there.
            after: another handle that must exist first, though it is not read.
            **inputs: handles of the artifacts that are read.
        """


@dataclass(frozen=True)
class Facts:
    """What the chain must know of a manifest to decide how far it goes.

    Attributes:
        images: train + unlabelled images.
        labelled: training images that have a label.
        test: test images that have a label.
    """

    images: int
    labelled: int
    test: int

    @classmethod
    def of(cls, manifest: dict[str, Any]) -> Facts:
        """Read them in a manifest's meta.json."""
        counts = manifest["counts"]
        return cls(counts["train"] + counts["unlabelled"], counts["labelled"], counts["test_labelled"])


Look = Callable[[Handle], Facts]
"""Waits for a manifest and says what is in it."""


def chain(config: Config, step: Step, look: Look) -> dict[str, Handle]:
    """Lay out the whole chain.

    Args:
        config: of the run.
        step: makes a stage.
        look: waits for a manifest and says what is in it.

    Returns:
        label -> handle, every stage of the run.
    """
    made: dict[str, Handle] = {}

    def make(label: str, plan: Plan, after: Handle = None, **inputs: Handle) -> Handle:
        made[label] = step(label, plan, after=after, **inputs)
        return made[label]

    images = make("manifest", partial(manifest.plan, config))
    facts = look(images)

    teacher = make("pretext", partial(pretext.plan, config), manifest=images)
    layer = config.embed.layer
    features = make(
        "embed", partial(embed.plan, config, part="train", layer=layer), manifest=images, checkpoint=teacher
    )

    others: dict[str, tuple[Handle, Handle]] = {}

    def features_of(source: str | None, name: str) -> tuple[Handle, Handle]:
        """Manifest and features of another source; the run's own if none is named."""
        if source is None:
            return images, features
        if source not in others:
            theirs = make(f"manifest-{name}", partial(manifest.plan, config, only=source))
            plan = partial(embed.plan, config, part="train", layer=layer, only=source)
            others[source] = theirs, make(f"embed-{name}", plan, manifest=theirs, checkpoint=teacher)
        return others[source]

    clustered = features_of(config.cluster.data, "cluster")
    clusters = make("cluster", partial(cluster.plan, config), features=clustered[1])
    assigned_images, assigned_features = features_of(config.assign.data or config.cluster.data, "assign")
    assignments = make("assign", assign.plan, clusters=clusters, features=assigned_features)
    student = make("transfer", partial(transfer.plan, config), manifest=assigned_images, assignments=assignments)

    models: dict[str, Handle] = {"teacher": teacher, "student-transferred": student}
    last = student
    draw = None
    if facts.labelled:
        draw = make("labels", partial(labels.plan, config), manifest=images)
        few = partial(finetune.plan, config)
        tuned = make("finetune-student", partial(few, role="student"), manifest=images, labels=draw, checkpoint=student)
        tuned_teacher = make("finetune-teacher", partial(few, role="teacher"), manifest=images, labels=draw, checkpoint=teacher)  # fmt: skip
        members = {"checkpoint": tuned_teacher} | ({"student": tuned} if config.predict.student else {})
        probabilities = make("predict", partial(predict.plan, config), manifest=images, **members)
        if config.predict.neighbours:
            plan = partial(propagate.plan, config)
            probabilities = make(
                "propagate", plan, clusters=clusters, features=features, probabilities=probabilities, labels=draw
            )
        starts = {"finetuned": tuned, "transferred": student, "scratch": None}
        start = starts[config.distill.init]
        inputs = {"manifest": images, "labels": draw, "probabilities": probabilities} | ({"checkpoint": start} if start else {})  # fmt: skip
        last = make("distill", partial(distill.plan, config), **inputs)
        models |= {"student-finetuned": tuned, "teacher-finetuned": tuned_teacher, "student": last}
        if config.finetune.baseline:
            steps = finetune.baseline_steps(config, facts.images)
            models["scratch"] = make("scratch", partial(few, role="scratch", steps=steps), after=last, manifest=images, labels=draw)  # fmt: skip

    evaluations: dict[str, Handle] = {}
    if facts.labelled and facts.test:
        for name, model in models.items():
            inputs = {"manifest": images, "checkpoint": model}
            if {"knn", "linear"} & set(config.evaluate.protocols):
                at = layer if name == "teacher" else "features"
                train = features if name == "teacher" else make(f"embed-{name}", partial(embed.plan, config, part="train", layer=at), after=last, **inputs)  # fmt: skip
                test = make(
                    f"embed-{name}-test", partial(embed.plan, config, part="test", layer=at), after=last, **inputs
                )
                inputs |= {"train": train, "test": test}
            evaluations[name] = make(
                f"evaluate-{name}", partial(evaluate.plan, config, model=name), after=last, **inputs
            )
    table = make(
        "scores",
        partial(scores.plan, config),
        manifest=assigned_images,
        clusters=clusters,
        assignments=assignments,
        **{f"evaluate-{name}": handle for name, handle in evaluations.items()},
    )
    shown = {name: made[name] for name in ("pretext", "transfer", "finetune-student", "finetune-teacher", "distill", "scratch") if name in made}  # fmt: skip
    make(
        "report",
        partial(report.plan, config),
        manifest=images,
        assigned=assigned_images,
        clusters=clusters,
        assignments=assignments,
        scores=table,
        **({"labels": draw} if draw is not None else {}),
        **shown,
    )
    return made
