"""The layout of a run: its stages, the stages it leaves out, and the callbacks that run them. No Prefect.

`flows/chain.py` lays out the trainings. `flows/measure.py` lays out the measurements and the report.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from data.types import Artifact
from models.configs.external import External
from models.configs.pretrained import Pretrained
from models.configs.shared import WithNetwork
from tasks.config import Config
from tasks.sources import Part
from tasks.stage import NotNeeded, Request
from tasks.stages import embed, external, manifest

SHIPS = ("shipped", "student", "student-finetuned", "student-transferred", "teacher")
"""Names of models. The first one that a run has is the model that ships."""

Handle = Any
"""Stands for an artifact that may not exist yet: a future in the flow, a plan in a dry run."""
Plan = Callable[..., Request | Artifact]
Look = Callable[[Handle], Mapping[str, Any]]
"""Waits for an artifact and returns its meta.json. A dry run returns what it knows of a manifest."""


class Step(Protocol):
    """A callback that makes a stage's artifact once its inputs exist."""

    def __call__(self, label: str, plan: Plan, /, *, after: Handle = None, **inputs: Handle) -> Handle:
        """Schedule the stage that `plan(**inputs)` requests.

        Args:
            label: the stage's name in this run.
            plan: takes artifacts by keyword, and returns the request or an existing artifact.
            after: another stage that must finish first, although this stage does not read it.
            **inputs: handles of the artifacts that the stage reads.
        """


@dataclass(frozen=True)
class Hooks:
    """The callbacks that run a layout.

    Attributes:
        step: schedules a stage and returns its handle.
        look: waits for an artifact and returns its meta.json.
        skip: gets each stage that this run leaves out.
        review: lets a person look at clusters and assignments. Returns another k, or None to continue.
        decided: gets the decision on what a rerun keeps from an earlier run (`flows.pin.Decision`).
        understood: gets sentences about what was understood of the images.
        planned: gets the configuration with a part of a plan, and the plan's meta.json.
    """

    step: Step
    look: Look
    skip: Callable[[NotNeeded], None] = lambda stage: None
    review: Callable[[Config, Handle, Handle], int | None] = lambda config, clusters, assignments: None
    decided: Callable[[Any], None] = lambda decision: None
    understood: Callable[[list[str]], None] = lambda lines: None
    planned: Callable[[Config, Mapping[str, Any]], None] = lambda config, plan: None


@dataclass(frozen=True)
class Facts:
    """The counts of a manifest that decide which stages a run has.

    Attributes:
        images: number of train + unlabelled images.
        labelled: number of training images that have a label.
        test: number of test images that have a label.
        leaked: number of test images whose picture a training image shows.
    """

    images: int
    labelled: int
    test: int
    leaked: int = 0

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> Facts:
        """Read the counts from a manifest's meta.json."""
        counts = manifest["counts"]
        images = counts["train"] + counts["unlabelled"]
        return cls(images, counts["labelled"], counts["test_labelled"], counts.get("leaked", 0))

    @property
    def scorable(self) -> bool:
        """Whether accuracies can be measured: train and test images have labels."""
        return bool(self.labelled and self.test)


@dataclass
class Layout:
    """The stages of a run that are laid out so far.

    Attributes:
        config: the run's configuration.
        hooks: callbacks that run the stages.
        made: label -> handle of each stage.
        kept: label -> artifact of an earlier run that is kept instead of made.
        models: name -> handle of each model to measure. The teacher's handle is None if no network is
            trained.
        sources: other source of images -> suffix of the labels of its stages.
        not_needed: stages that the run leaves out.
    """

    config: Config
    hooks: Hooks
    made: dict[str, Handle] = field(default_factory=dict)
    kept: dict[str, Artifact] = field(default_factory=dict)
    models: dict[str, Handle] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    not_needed: list[NotNeeded] = field(default_factory=list)

    def make(self, label: str, plan: Plan, after: Handle = None, **inputs: Handle) -> Handle:
        """Add a stage and return its handle. If the label is in `kept`, the plan is ignored."""
        if label in self.kept:
            plan = partial(_given, self.kept[label])
        self.made[label] = self.hooks.step(label, plan, after=after, **inputs)
        return self.made[label]

    def leave_out(self, stage: str, because: str, *reads: str) -> None:
        """Record that this run leaves out a stage.

        Args:
            stage: the stage's label in runs that have it.
            because: the reason, as a clause such as `pretext.method is hog`.
            *reads: labels of the stages that it would read.
        """
        self.not_needed.append(NotNeeded(stage, because, reads))
        self.hooks.skip(self.not_needed[-1])

    @property
    def ships(self) -> tuple[str, Handle] | None:
        """The model that ships, as (name, handle); None if the run trains no network."""
        found = ((name, self.models.get(name)) for name in SHIPS)
        return next(((name, model) for name, model in found if model is not None), None)

    def having(self, *labels: str) -> dict[str, Handle]:
        """The stages among `labels` that are laid out, as label -> handle."""
        return {label: self.made[label] for label in labels if label in self.made}

    def features(
        self, label: str, images: Handle, *, part: Part, only: str | None = None, after: Handle = None
    ) -> Handle:
        """Add the stage that makes features: from the teacher, from a descriptor, or from files."""
        config = self.config
        if isinstance(config.pretext, WithNetwork):
            plan: Plan = partial(
                embed.plan,
                config,
                part=part,
                layer=config.embed.layer,
                only=only,
                own_input=isinstance(config.pretext, Pretrained),
            )
            return self.make(label, plan, after=after, manifest=images, checkpoint=self.models["teacher"])
        if isinstance(config.pretext, External):
            return self.make(label, partial(external.plan, config, part=part), after=after, manifest=images)
        plan = partial(embed.plan_described, config, part=part, only=only)
        return self.make(label, plan, after=after, manifest=images)

    def images_of(self, source: str | None, name: str) -> Handle:
        """The manifest of another source, with `name` as suffix of its stages. None: the run's manifest."""
        if source is None:
            return self.made["manifest"]
        label = f"manifest-{self.sources.setdefault(source, name)}"
        plan = partial(manifest.plan, self.config, only=source)
        return self.made.get(label) or self.make(label, plan, like=self.made["manifest"])

    def features_of(self, source: str | None, name: str) -> Handle:
        """The features of another source, with `name` as suffix of its stages. None: the run's features."""
        if source is None:
            return self.made["embed"]
        images = self.images_of(source, name)
        label = f"embed-{self.sources[source]}"
        return self.made.get(label) or self.features(label, images, part="train", only=source)

    @property
    def assigned_source(self) -> str | None:
        """The source of the images that get pseudo-labels, if it differs from the run's."""
        return self.config.assign.data or self.config.cluster.data if self.config.transfers else None


def _given(artifact: Artifact, **inputs: Artifact) -> Artifact:
    """The plan of a kept stage: return its artifact."""
    return artifact
