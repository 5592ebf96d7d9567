"""The chain: which stages there are, in which order, and what each reads. No arithmetic, no Prefect.

`chain(config, hooks)` calls `hooks.step(label, plan, **inputs)` for every stage. What `step` answers with stands for an
artifact that may not exist yet (a future in the flow) and may be given as an input to later stages.

Which stages a method needs is said by the type of its configuration: a `Teacher` is trained, a `Descriptor` and `External`
features enter at embed; `learns_from` tells what transfer reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Protocol

from data.types import Artifact
from models.configs import External, Teacher
from tasks.config import Config
from tasks.stage import Request
from tasks.stages import (
    assign,
    cluster,
    codes,
    detection,
    distill,
    embed,
    evaluate,
    external,
    finetune,
    labels,
    layers,
    manifest,
    multi_label,
    nonlinear,
    predict,
    pretext,
    propagate,
    report,
    scores,
    segmentation,
    stability,
    transfer,
)

Handle = Any
Plan = Callable[..., Request | Artifact]
CLOSER: dict[str, Plan] = {"layers": layers.plan, "nonlinear": nonlinear.plan}
"""Evaluations that look into a network."""
DOWNSTREAM: dict[str, Plan] = {
    "detection": detection.plan,
    "segmentation": segmentation.plan,
    "multi-label": multi_label.plan,
}
"""Evaluations that train a network further."""


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
    def of(cls, manifest: Mapping[str, Any]) -> Facts:
        """Read them in a manifest's meta.json."""
        counts = manifest["counts"]
        return cls(counts["train"] + counts["unlabelled"], counts["labelled"], counts["test_labelled"])


Look = Callable[[Handle], Mapping[str, Any]]
"""Waits for an artifact and says what its meta.json does; of a manifest at least its `counts`."""


@dataclass(frozen=True)
class NotNeeded:
    """A stage that other configurations have and this one does without.

    Attributes:
        stage: its label in runs that have it.
        because: the setting that makes it needless.
        reads: labels of the stages that it reads there.
    """

    stage: str
    because: str
    reads: tuple[str, ...]


@dataclass(frozen=True)
class Hooks:
    """What a layout asks of whoever runs it.

    Attributes:
        step: makes a stage.
        look: waits for an artifact and says what its meta.json does.
        skip: is told of each stage that this run does without.
        review: has a person look at clusters and assignments, where the configuration asks for it -> another k, or None
            to go on.
        decided: is told what a rerun keeps of an earlier run (`flows.pin.Decision`).
    """

    step: Step
    look: Look
    skip: Callable[[NotNeeded], None] = lambda stage: None
    review: Callable[[Config, Handle, Handle], int | None] = lambda config, clusters, assignments: None
    decided: Callable[[Any], None] = lambda decision: None


def label_draws(config: Config) -> Iterator[tuple[str, int, Config]]:
    """The draws of `label-efficiency`: how many labels, which draw, and the configuration that draws them.

    None is the run's own draw, which the recipe may have been tuned on.
    """
    amounts: list[tuple[str, dict[str, Any]]] = [
        *((f"{100 * share:g}pc", {"label_fraction": share, "labels_per_class": None}) for share in config.evaluate.label_fractions),
        *((f"{n}each", {"label_fraction": None, "labels_per_class": n}) for n in config.evaluate.labels_per_class),
    ]  # fmt: skip
    first = (config.seed if config.data.label_seed is None else config.data.label_seed) + 1
    for amount, update in amounts:
        for draw in range(config.evaluate.label_draws):
            data = config.data.model_copy(update={**update, "label_seed": 1000 * first + draw})
            yield amount, draw, config.model_copy(update={"data": data})


FEW_LABELS = ("finetune-", "distill", "scratch")
"""How the stages' labels begin that train on the few labels."""


def chain(
    config: Config, hooks: Hooks, *, made: dict[str, Handle] | None = None, kept: dict[str, Artifact] | None = None
) -> dict[str, Handle]:
    """Lay out the whole chain.

    Args:
        config: of the run.
        hooks: of whoever runs it.
        made: label -> handle of stages that are laid out already: the manifest, and what was measured beforehand.
        kept: label -> artifact, what an earlier run has trained and this one is given.

    Returns:
        label -> handle, every stage of the run.
    """
    layout = Layout(config, hooks, made=made or {}, kept=kept or {})
    images = layout.made.get("manifest")
    facts = Facts.of(hooks.look(layout.make("manifest", partial(manifest.plan, config)) if images is None else images))
    layout.teach()
    if config.transfers:
        layout.transfer()
        config = layout.config  # a person may have chosen another k
    if config.tunes and facts.labelled:
        layout.learn_labels(facts)
    layout.conclude(measure=bool(facts.labelled and facts.test))
    return layout.made


@dataclass
class Layout:
    """The chain as far as it is laid out.

    Attributes:
        made: label -> handle.
        kept: label -> artifact that is given rather than made.
        models: those that are evaluated; the teacher's is None where no network was trained.
        sources: other places of images -> what the labels of their stages end with.
        not_needed: stages left out.
    """

    config: Config
    hooks: Hooks
    made: dict[str, Handle] = field(default_factory=dict)
    kept: dict[str, Artifact] = field(default_factory=dict)
    models: dict[str, Handle] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    not_needed: list[NotNeeded] = field(default_factory=list)

    def make(self, label: str, plan: Plan, after: Handle = None, **inputs: Handle) -> Handle:
        """Ask for a stage; for what is kept, whatever its plan."""
        if label in self.kept:
            plan = partial(_given, self.kept[label])
        self.made[label] = self.hooks.step(label, plan, after=after, **inputs)
        return self.made[label]

    def leave_out(self, stage: str, because: str, *reads: str) -> None:
        """Say that a stage is not needed by a setting; `reads` are the labels of what it would read."""
        self.not_needed.append(NotNeeded(stage, because, reads))
        self.hooks.skip(self.not_needed[-1])

    def having(self, *labels: str) -> dict[str, Handle]:
        """Those of the stages that are laid out."""
        return {label: self.made[label] for label in labels if label in self.made}

    def teach(self) -> None:
        """The teacher, where one is trained, and the features of the run's images."""
        pretext_config, images = self.config.pretext, self.made["manifest"]
        self.models["teacher"] = None
        if isinstance(pretext_config, Teacher):
            self.models["teacher"] = self.make("pretext", partial(pretext.plan, self.config), manifest=images)
            if pretext_config.codes:
                self.make("codes", codes.plan, checkpoint=self.models["teacher"])
        else:
            self.leave_out("pretext", f"pretext.method {pretext_config.method}", "manifest")
        self.features("embed", images, part="train")

    def features(
        self, label: str, images: Handle, *, part: embed.Part, only: str | None = None, after: Handle = None
    ) -> Handle:
        """Features as the pretext method gives them: by the teacher, of the pixels, or from elsewhere."""
        config = self.config
        if isinstance(config.pretext, Teacher):
            plan: Plan = partial(embed.plan, config, part=part, layer=config.embed.layer, only=only)
            return self.make(label, plan, after=after, manifest=images, checkpoint=self.models["teacher"])
        if isinstance(config.pretext, External):
            return self.make(label, partial(external.plan, config, part=part), after=after, manifest=images)
        return self.make(label, partial(embed.plan_described, config, part=part, only=only), after=after, manifest=images)  # fmt: skip

    def images_of(self, source: str | None, name: str) -> Handle:
        """Manifest of another source, whose stages end with `name`; the run's own if none is named."""
        if source is None:
            return self.made["manifest"]
        label = f"manifest-{self.sources.setdefault(source, name)}"
        return self.made.get(label) or self.make(label, partial(manifest.plan, self.config, only=source))

    def features_of(self, source: str | None, name: str) -> Handle:
        """Features of another source; the run's own if none is named."""
        if source is None:
            return self.made["embed"]
        images = self.images_of(source, name)
        label = f"embed-{self.sources[source]}"
        return self.made.get(label) or self.features(label, images, part="train", only=source)

    def transfer(self) -> None:
        """The student, from clusters, from codes, or from the teacher itself."""
        config = self.config
        learns_from = config.transfer.learns_from
        if learns_from == "assignments":
            learned = {"assignments": self.cluster()}
        else:
            because = "transfer.labels codes" if learns_from == "codes" else f"transfer.method {config.transfer.method}"
            self.leave_out("cluster", because, "embed")
            self.leave_out("assign", because, "cluster", "embed")
            learned = {"codes": self.made["codes"]} if learns_from == "codes" else {"teacher": self.models["teacher"]}
        learned["manifest"] = self.images_of(config.assign.data or config.cluster.data, "assign")
        *earlier, last = config.transfer.phases
        for phase in earlier:
            learned["checkpoint"] = self.make(f"transfer-{phase}", partial(transfer.plan, config, phase=phase), **learned)  # fmt: skip
        self.models["student-transferred"] = self.make("transfer", partial(transfer.plan, config, phase=last), **learned)  # fmt: skip

    def cluster(self) -> Handle:
        """Clusters and assignments; where a person is to look at them, anew for each other k that comes of it."""
        end, config = "", self.config
        clustered = self.features_of(config.cluster.data, "cluster")
        while True:
            clusters = self.make(f"cluster{end}", partial(cluster.plan, self.config), features=clustered)
            features = self.features_of(config.assign.data or config.cluster.data, "assign")
            assigned = self.make(f"assign{end}", assign.plan, clusters=clusters, features=features)
            k = self.hooks.review(self.config, clusters, assigned) if config.review and not self.kept else None
            if k is None:
                self.made |= {"cluster": clusters, "assign": assigned}
                return assigned
            end = f"-k{k}"
            self.config = self.config.model_copy(update={"cluster": self.config.cluster.model_copy(update={"k": k})})

    def keep_learned(self) -> None:
        """What the few labels were for, as an earlier run has trained it."""
        names = {"finetune-student": "student-finetuned", "finetune-teacher": "teacher-finetuned", "distill": "student", "scratch": "scratch"}  # fmt: skip
        for label, name in names.items():
            if label in self.kept:
                self.models[name] = self.make(label, _nothing, manifest=self.made["manifest"])
        for stage in ("labels", "predict") + (("propagate",) if self.config.predict.neighbours else ()):
            if stage == "labels" or "distill" in self.kept:
                self.leave_out(stage, "pin.enabled", "manifest")

    def learn_labels(self, facts: Facts) -> None:
        """What the few labels are for: fine-tuning, distillation, the baseline."""
        if "finetune-student" in self.kept:
            self.keep_learned()
            return
        config, images, student = self.config, self.made["manifest"], self.models["student-transferred"]
        draw = self.make("labels", partial(labels.plan, config), manifest=images)
        few = partial(finetune.plan, config)
        tuned = self.make("finetune-student", partial(few, role="student"), manifest=images, labels=draw, checkpoint=student)  # fmt: skip
        self.models["student-finetuned"] = last = tuned
        if isinstance(config.pretext, Teacher):
            self.models["teacher-finetuned"] = self.make("finetune-teacher", partial(few, role="teacher"), manifest=images, labels=draw, checkpoint=self.models["teacher"])  # fmt: skip
        else:
            self.leave_out("finetune-teacher", f"pretext.method {config.pretext.method}", "manifest", "labels")
        if config.until == "distill":
            self.models["student"] = last = self.distill(draw, student, tuned)
        if config.finetune.baseline:
            steps = finetune.baseline_steps(config, facts.images)
            self.models["scratch"] = self.make("scratch", partial(few, role="scratch", steps=steps), after=last, manifest=images, labels=draw)  # fmt: skip

    def distill(self, draw: Handle, student: Handle, tuned: Handle) -> Handle:
        """The fine-tuned networks' word on all images, and the student that learns it: the final one.

        Args:
            draw: of labels.
            student: transferred.
            tuned: the same, fine-tuned.
        """
        config, images = self.config, self.made["manifest"]
        members = {"checkpoint": tuned}
        if "finetune-teacher" in self.made:
            members = {"checkpoint": self.made["finetune-teacher"]} | (
                {"student": tuned} if config.predict.student else {}
            )
        probabilities = self.make("predict", partial(predict.plan, config), manifest=images, **members)
        starts = {"finetuned": tuned, "transferred": student, "scratch": None}
        last = starts[config.distill.init]
        seen = ("teacher-finetuned", members["checkpoint"]) if "finetune-teacher" in self.made else None
        for round in range(1, config.distill.rounds + 1):
            end = "" if round == config.distill.rounds else f"-round{round}"
            targets = self.propagate(f"propagate{end}", probabilities, seen) if config.predict.neighbours else probabilities  # fmt: skip
            start = {} if last is None else {"checkpoint": last}
            last = self.make(f"distill{end}", partial(distill.plan, config, round=round), manifest=images, labels=draw, probabilities=targets, **start)  # fmt: skip
            seen = (f"student{end}", last)
        return last

    def propagate(self, label: str, probabilities: Handle, seen: tuple[str, Handle] | None) -> Handle:
        """Labels over the graph of nearest neighbours, among them those in the eyes of a second network (name, handle)."""
        config = self.config
        inputs = {"features": self.made["embed"], "probabilities": probabilities, "labels": self.made["labels"]}
        if "cluster" in self.made:
            inputs["clusters"] = self.made["cluster"]
        if config.predict.joint and seen is not None:
            name, model = seen
            inputs["second"] = self.made.get(f"embed-{name}") or self.make(
                f"embed-{name}", partial(embed.plan, config, part="train", layer="features"),
                manifest=self.made["manifest"], checkpoint=model,
            )  # fmt: skip
        return self.make(label, partial(propagate.plan, config), **inputs)

    def conclude(self, measure: bool) -> None:
        """Evaluations of every model, the table of scores, the report."""
        config = self.config
        elsewhere = (config.assign.data or config.cluster.data) if config.transfers else None
        assigned = self.images_of(elsewhere, "assign")
        evaluations = ((self.evaluate() | self.look_closer()) if measure else {}) | self.downstream()
        if "stability" in config.evaluate.protocols and "cluster" in self.made:
            features = self.features_of(config.cluster.data, "cluster")
            evaluations["stability"] = self.make("stability", partial(stability.plan, config), features=features)
        pseudo_labels = {"clusters": self.made["cluster"], "assignments": self.made["assign"]} if "assign" in self.made else {}  # fmt: skip
        own = {} if elsewhere else self.having("codes")
        table = self.make("scores", partial(scores.plan, config), manifest=assigned, **pseudo_labels, **own, **evaluations)  # fmt: skip
        if config.transfers and config.transfer.learns_from == "codes":
            pseudo_labels = own
        rounds = (f"distill-round{round}" for round in range(1, config.distill.rounds))
        trained = ("pretext", *(f"transfer-{phase}" for phase in config.transfer.phases), "transfer", "finetune-student", "finetune-teacher", *rounds, "distill", "scratch")  # fmt: skip
        self.make(
            "report",
            partial(report.plan, config, not_needed=[asdict(stage) for stage in self.not_needed]),
            manifest=self.made["manifest"],
            assigned=assigned,
            scores=table,
            **pseudo_labels,
            **self.having("labels", *trained),
        )

    def look_closer(self) -> dict[str, Handle]:
        """What else is asked of the models that no label has touched: probes of layers, other draws of few labels."""
        config, images = self.config, self.made["manifest"]
        wished = set(config.evaluate.protocols)
        found = {}
        for name in ("teacher", "student-transferred"):
            model = self.models.get(name)
            if model is None:
                continue
            inputs = {"manifest": images, "checkpoint": model}
            for protocol, plan in CLOSER.items():
                if protocol in wished:
                    label = f"{protocol}-{name}"
                    found[label] = self.make(label, partial(plan, config, model=name), **inputs)
        if "label-efficiency" in wished:
            found |= self.draw_labels("student-transferred" if config.transfers else "teacher")
        return found

    def draw_labels(self, name: str) -> dict[str, Handle]:
        """Few labels, drawn anew several times, fine-tuned and with frozen features.

        Args:
            name: of the model that is tuned.
        """
        images, found = self.made["manifest"], {}
        if self.models[name] is None:
            return {}
        few = self.config.evaluate.model_copy(update={"protocols": ["few-label"]})
        measured = self.config.model_copy(update={"evaluate": few})
        for amount, draw, config in label_draws(self.config):
            labelled = self.make(f"labels-{amount}-draw{draw}", partial(labels.plan, config), manifest=images)
            for how in ("tuned", "frozen"):
                tuning = config.model_copy(update={"finetune": config.finetune.model_copy(update={"freeze": how == "frozen", "learning_rates": []})})  # fmt: skip
                place = f"{amount}-draw{draw}-{how}"
                tuned = self.make(f"finetune-{place}", partial(finetune.plan, tuning, role="student"), manifest=images, labels=labelled, checkpoint=self.models[name])  # fmt: skip
                told = {"evaluation": "label-efficiency", "setting": f"labels={amount} {how}", "seed": draw}
                found[f"evaluate-{place}"] = self.make(f"evaluate-{place}", partial(evaluate.plan, measured, model=name, told=told), manifest=images, checkpoint=tuned)  # fmt: skip
        return found

    def downstream(self) -> dict[str, Handle]:
        """Scores of what no label has touched, trained further on other photographs, and of the same from scratch."""
        config = self.config
        if not config.evaluate.downstream:
            return {}
        images = self.make("manifest-voc", partial(manifest.plan_voc, config))
        name = "student-transferred" if config.transfers else "teacher"
        found = {}
        for protocol in config.evaluate.downstream:
            for model, start in ((name, self.models[name]), ("scratch", None)):
                inputs = {"manifest": images} | ({"checkpoint": start} if start is not None else {})
                label = f"{protocol}-{model}"
                found[label] = self.make(label, partial(DOWNSTREAM[protocol], config, model=model), **inputs)
        return found

    def evaluate(self) -> dict[str, Handle]:
        """Scores of each model, by the label of the stage."""
        config, images = self.config, self.made["manifest"]
        last = self.models.get("student")
        found = {}
        for name, model in self.models.items():
            inputs = {"manifest": images} | ({"checkpoint": model} if model is not None else {})
            if {"knn", "linear"} & set(config.evaluate.protocols):
                if name == "teacher":
                    train = self.made["embed"]
                    test = self.features(f"embed-{name}-test", images, part="test", after=last)
                else:
                    plan = partial(embed.plan, config, layer="features")
                    train = self.made.get(f"embed-{name}") or self.make(
                        f"embed-{name}", partial(plan, part="train"), after=last, **inputs
                    )
                    test = self.make(f"embed-{name}-test", partial(plan, part="test"), after=last, **inputs)
                inputs |= {"train": train, "test": test}
            elif model is None:
                continue
            found[f"evaluate-{name}"] = self.make(f"evaluate-{name}", partial(evaluate.plan, config, model=name), after=last, **inputs)  # fmt: skip
        return found


def _given(artifact: Artifact, **inputs: Artifact) -> Artifact:
    """The plan of what is kept."""
    return artifact


def _nothing(**inputs: Artifact) -> Artifact:
    raise AssertionError("a plan of what is kept is never asked")
