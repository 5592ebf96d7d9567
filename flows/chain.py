"""The chain: which stages train, in which order, and what each one reads. No arithmetic, no Prefect.

`chain(config, hooks)` calls `hooks.step(label, plan, **inputs)` for every stage. The returned handle stands
for an artifact that may not exist yet (a future in the flow). Later stages take it as an input.

The type of the pretext configuration says which stages it needs. A `Teacher` is trained, and `Pretrained` is
loaded from a file. A `Descriptor` and `External` give no network, so the chain starts at embed. The transfer
configuration's `learns_from` says what transfer reads.
"""

from __future__ import annotations

from functools import partial

from data.types import Artifact
from flows.layout import Facts, Handle, Hooks, Layout, Plan
from flows.measure import conclude
from flows.recipes import borrowed_test, keeps_draw, planned, switched
from models.configs.pretrained import Pretrained
from models.configs.shared import Teacher, WithNetwork
from tasks.config import Config
from tasks.feasible import refuse, refuse_labels, refuse_weights
from tasks.stages import (
    assign,
    cluster,
    codes,
    distill,
    embed,
    finetune,
    head,
    labels,
    linear,
    manifest,
    pixels,
    plan,
    plan_labels,
    predict,
    pretext,
    pretrained,
    propagate,
    respread,
    ship,
    sound,
    spread,
    spread_learned,
    transfer,
    weigh,
)
from tasks.understood import describe, drawn

FEW_LABELS = ("plan-labels", "finetune-", "linear-", "distill", "head", "scratch", "ship")
"""Prefixes of the stages that train on the few labels, and of their plan."""
TUNED = {
    "finetune-student": "student-finetuned",
    "finetune-teacher": "teacher-finetuned",
    "linear-student": "student-linear",
    "linear-teacher": "teacher-linear",
    "distill": "student",
    "head": "teacher-head",
    "scratch": "scratch",
    "ship": "shipped",
}
"""Label of a stage that makes a classifier from the few labels -> name of this classifier in the scores."""
STUDENTS = ("student-finetuned", "student-linear", "scratch")
"""Candidates with the student's network, which `distill.init: favoured` chooses from."""


def chain(
    config: Config,
    hooks: Hooks,
    *,
    made: dict[str, Handle] | None = None,
    kept: dict[str, Artifact] | None = None,
) -> dict[str, Handle]:
    """Lay out the whole chain.

    Args:
        config: the run's configuration.
        hooks: callbacks that run the stages.
        made: label -> handle, for stages that are already laid out, such as the manifest and the drift
            measurements.
        kept: label -> artifact of an earlier run that this run keeps instead of training again.

    Returns:
        label -> handle, for every stage of the run.

    Raises:
        ConfigError: the images can't serve this configuration (`tasks.feasible`).
    """
    refuse_weights(config)
    layout = Layout(config, hooks, made=dict(made or {}), kept=kept or {})
    images = layout.made.get("manifest")
    if images is None:
        images = layout.make("manifest", partial(manifest.plan, config))
    seen = hooks.look(images)
    recipes = keeps_draw(config)
    lines = [*describe(config, seen, recipes=recipes), *borrowed_test(config), *switched(config)]
    hooks.understood(lines)
    refuse_labels(config, seen, recipes=recipes)
    if config.plan.minutes is not None:
        known = {"teacher": _loaded(layout)} if isinstance(config.pretext, Pretrained) else {}
        planning: Plan = partial(plan.plan, config, tested=seen["counts"]["test"])
        _follow(layout, layout.make("plan-images", planning, manifest=images, **known))
    refuse(layout.config, seen)
    facts = Facts.of(seen)
    _teach(layout)
    _look_at_weights(layout, facts)
    if config.transfers:
        _transfer(layout)
    if config.tunes and facts.labelled:
        if config.plan.minutes is not None:
            phases = (f"transfer-{phase}" for phase in config.transfer.phases)
            trained = layout.having("manifest", "pretext", "embed", "cluster", *phases, "transfer")
            sizes = [row["train"] for row in seen.get("understood", {}).get("classes", ()) if row["train"]]
            # A dry run of images that are not here knows no classes.
            used = [drawn(config.data, [size]) for size in sizes or [facts.labelled]]
            _follow(
                layout,
                layout.make(
                    "plan-labels",
                    partial(plan_labels.plan, config, labels=used),
                    first=layout.made["plan-images"],
                    **trained,
                ),
            )
        if config.until == "head":
            _head(layout)
        else:
            _learn_labels(layout, facts)
    conclude(layout, facts, beside=(made or {}).keys() - {"manifest"})
    return layout.made


def _follow(layout: Layout, made: Handle) -> None:
    """Wait for a plan, and continue with its settings."""
    found = layout.hooks.look(made)
    layout.config = planned(layout.config, found["settings"])
    layout.hooks.planned(layout.config, found)


def _teach(layout: Layout) -> None:
    """Lay out the teacher, if the pretext method gives one, and the features of the run's images."""
    config, images = layout.config, layout.made["manifest"]
    layout.models["teacher"] = None
    if isinstance(config.pretext, Pretrained):
        layout.models["teacher"] = _loaded(layout)
    elif isinstance(config.pretext, Teacher):
        start = {}
        if config.pretext.weights is not None:
            loading: Plan = partial(pretrained.plan, config)
            start = {"checkpoint": layout.make("weights", loading, manifest=images)}
        plan: Plan = partial(pretext.plan, config)
        layout.models["teacher"] = layout.make("pretext", plan, manifest=images, **start)
        if config.pretext.codes:
            layout.make("codes", codes.plan, checkpoint=layout.models["teacher"])
    else:
        layout.leave_out("pretext", f"pretext.method is {config.pretext.method}", "manifest")
    layout.features("embed", images, part="train")


def _loaded(layout: Layout) -> Handle:
    """The teacher that others trained. It is laid out once, before the plan if there is one."""
    loading: Plan = partial(pretrained.plan, layout.config)
    return layout.made.get("pretext") or layout.make("pretext", loading, manifest=layout.made["manifest"])


def _look_at_weights(layout: Layout, facts: Facts) -> None:
    """Lay out the test of a network that others trained, if there is one.

    A teacher that is kept from an earlier run was tested when it was loaded.
    """
    config, images = layout.config, layout.made["manifest"]
    label = "pretext" if isinstance(config.pretext, Pretrained) else "weights"
    if label not in layout.made or "pretext" in layout.kept:
        return
    inputs = {"manifest": images, "checkpoint": layout.made[label]}
    if config.tunes and facts.labelled:
        inputs["labels"] = layout.make("labels", partial(labels.plan, config), manifest=images)
    layout.make("sound", partial(sound.plan, config), **inputs)


def _transfer(layout: Layout) -> None:
    """Lay out the student, which learns from clusters, codes, the teacher's features, or the teacher itself.

    Where it learns from features, the clusters are for the report alone.
    """
    config = layout.config
    learns_from = config.transfer.learns_from
    if config.transfer.clusters:
        assigned = _cluster(layout)
        config = layout.config  # in a review, a person may have chosen another k
        learned = {"assignments": assigned}
        if learns_from == "features":
            learned = {"features": layout.features_of(layout.assigned_source, "assign")}
    else:
        because = (
            "transfer.labels is codes"
            if learns_from == "codes"
            else f"transfer.method is {config.transfer.method}"
        )
        layout.leave_out("cluster", because, "embed")
        layout.leave_out("assign", because, "cluster", "embed")
        codes = {"codes": layout.made["codes"]} if learns_from == "codes" else None
        learned = codes or {"teacher": layout.models["teacher"]}
    learned["manifest"] = layout.images_of(layout.assigned_source, "assign")
    *earlier, last = config.transfer.phases
    for phase in earlier:
        plan: Plan = partial(transfer.plan, config, phase=phase)
        learned["checkpoint"] = layout.make(f"transfer-{phase}", plan, **learned)
    plan = partial(transfer.plan, config, phase=last)
    layout.models["student-transferred"] = layout.make("transfer", plan, **learned)


def _cluster(layout: Layout) -> Handle:
    """Lay out clusters and assignments. If a reviewer chooses another k, lay them out again with this k."""
    end, config = "", layout.config
    clustered = layout.features_of(config.cluster.data, "cluster")
    while True:
        clusters = layout.make(f"cluster{end}", partial(cluster.plan, layout.config), features=clustered)
        features = layout.features_of(layout.assigned_source, "assign")
        assigned = layout.make(f"assign{end}", assign.plan, clusters=clusters, features=features)
        k = (
            layout.hooks.review(layout.config, clusters, assigned)
            if config.review and not layout.kept
            else None
        )
        if k is None:
            layout.made |= {"cluster": clusters, "assign": assigned}
            return assigned
        end = f"-k{k}"
        chosen = layout.config.cluster.model_copy(update={"k": k})
        layout.config = layout.config.model_copy(update={"cluster": chosen})


def _head(layout: Layout) -> None:
    """Lay out the shortest way to an answer: features, propagated labels, a linear classifier on them."""
    config, models = layout.config, layout.models
    if "head" in layout.kept:
        _keep_learned(layout)
        return
    if "labels" not in layout.made:
        layout.make("labels", partial(labels.plan, config), manifest=layout.made["manifest"])
    inputs, features = layout.having("manifest", "labels"), layout.made["embed"]
    few = layout.make("linear-teacher", partial(linear.plan, config), **inputs, checkpoint=models["teacher"])
    targets = layout.make(
        "predict",
        partial(predict.plan, config),
        manifest=inputs["manifest"],
        checkpoint=few,
        features=features,
    )
    if config.predict.neighbours:
        targets = _propagate(layout, "propagate", targets, None)
    head_plan: Plan = partial(head.plan, config)
    last = layout.make("head", head_plan, **inputs, checkpoint=few, features=features, probabilities=targets)
    models |= {"teacher-linear": few, "teacher-head": last}
    _ship(layout, {"teacher-head": last})


def _learn_labels(layout: Layout, facts: Facts) -> None:
    """Lay out the stages that use the few labels: fine-tuning, distillation, the baseline, and the choice."""
    if "finetune-student" in layout.kept:
        _keep_learned(layout)
        return
    config, student = layout.config, layout.models["student-transferred"]
    if "labels" not in layout.made:
        layout.make("labels", partial(labels.plan, config), manifest=layout.made["manifest"])
    tuned = _tuned(layout, "student", student)
    if isinstance(config.pretext, WithNetwork) and (config.ship.teacher or not config.ship.compare):
        _tuned(layout, "teacher", layout.models["teacher"])
    else:
        untuned = "ship.teacher is false"
        if not isinstance(config.pretext, WithNetwork):
            untuned = f"pretext.method is {config.pretext.method}"
        layout.leave_out("finetune-teacher", untuned, "manifest", "labels")
    if config.ship.compare:
        _compare(layout, student)
        return
    last = tuned
    if config.until == "distill":
        layout.models["student"] = last = _distill(layout, layout.made["labels"], student, tuned)
    if config.finetune.baseline:
        steps = finetune.baseline_steps(config, facts.images)
        layout.models["scratch"] = _scratch(layout, steps=steps, after=last)
    name = "student" if "student" in layout.models else "student-finetuned"
    _ship(layout, {name: last})


def _tuned(layout: Layout, role: finetune.Role, checkpoint: Handle) -> Handle:
    """Lay out the fine-tuning of the student or of the teacher."""
    inputs, plan = layout.having("manifest", "labels"), partial(finetune.plan, layout.config, role=role)
    made = layout.make(f"finetune-{role}", plan, **inputs, checkpoint=checkpoint)
    layout.models[f"{role}-finetuned"] = made
    return made


def _scratch(layout: Layout, *, steps: int | None, after: Handle = None) -> Handle:
    """Lay out the training of the student's network from scratch."""
    plan = partial(finetune.plan, layout.config, role="scratch", steps=steps)
    return layout.make("scratch", plan, after=after, **layout.having("manifest", "labels"))


def _compare(layout: Layout, student: Handle) -> None:
    """Lay out all classifiers, their mixture, the final student that learns it, and the choice.

    Args:
        layout: the run's layout, with the fine-tuned networks.
        student: the student after transfer.
    """
    config, models = layout.config, layout.models
    inputs = layout.having("manifest", "labels")
    features = {"student": _second(layout, "student-transferred", student)}
    linear_plan: Plan = partial(linear.plan, config)
    models["student-linear"] = layout.make("linear-student", linear_plan, **inputs, checkpoint=student)
    if isinstance(config.pretext, WithNetwork):
        teacher = models["teacher"]
        models["teacher-linear"] = layout.make("linear-teacher", linear_plan, **inputs, checkpoint=teacher)
        features |= {"teacher": layout.made["embed"]} if config.embed.layer == "features" else {}
    models["scratch"] = _scratch(layout, steps=config.finetune.baseline_steps)
    judged = {label: TUNED[label] for label in layout.made if label in TUNED}
    contenders: dict[str, Handle] = {}
    for label, name in judged.items():
        # A linear classifier reads features that exist already. The other networks were trained further.
        frozen = {"features": features[end]} if (end := label.removeprefix("linear-")) in features else {}
        plan: Plan = partial(predict.plan, config)
        contenders[name] = layout.made[label]
        contenders[f"{name} probabilities"] = layout.make(
            f"predict-{name}", plan, manifest=inputs["manifest"], checkpoint=layout.made[label], **frozen
        )
    spreads = layout.make(
        "spread",
        partial(spread.plan, config),
        **inputs,
        features=layout.made["embed"],
        second=features["student"],
    )
    contenders |= {"neighbours": spreads, "neighbours probabilities": spreads}
    learned = layout.make(
        "spread-scratch",
        partial(spread_learned.plan, config),
        **inputs,
        features=_second(layout, "scratch", models["scratch"], layer="last"),
        checkpoint=models["scratch"],
    )
    contenders |= {"scratch-neighbours": learned, "scratch-neighbours probabilities": learned}
    seen = layout.make("pixels", partial(pixels.plan, config), **inputs)
    contenders |= {"pixels": seen, "pixels probabilities": seen}
    mixture = layout.make("weigh", partial(weigh.plan, config), labels=inputs["labels"], **contenders)
    candidates = {name: layout.made[label] for label, name in judged.items()}
    if config.until == "distill":
        starts = _starts(config.distill.init, models["student-finetuned"], student)
        if config.distill.init == "favoured":
            starts = {name: candidates[name] for name in STUDENTS if name in candidates}
        models["student"] = candidates["student"] = _learn_mixture(layout, mixture, starts)
    _ship(layout, candidates, mixture=mixture)


def _learn_mixture(layout: Layout, mixture: Handle, starts: dict[str, Handle]) -> Handle:
    """Lay out the rounds of distillation. In each further round, the student also learns from its neighbours.

    Args:
        layout: the run's layout.
        mixture: what all classifiers say together.
        starts: what the first round may start from.
    """
    config, inputs, targets = layout.config, layout.having("manifest", "labels"), mixture
    for round in range(1, config.distill.rounds + 1):
        end = "" if round == config.distill.rounds else f"-round{round}"
        plan = partial(distill.plan, config, round=round)
        last = layout.make(f"distill{end}", plan, **inputs, probabilities=targets, **starts)
        if end:
            near = _second(layout, f"student{end}", last, layer="last")
            spread_again: Plan = partial(respread.plan, config)
            labelled = layout.having("labels")
            targets = layout.make(f"respread{end}", spread_again, **labelled, mixture=mixture, features=near)
            starts = {"checkpoint": last}
    return last


def _ship(layout: Layout, candidates: dict[str, Handle], **mixture: Handle) -> None:
    """Lay out the choice of the model that the run hands over."""
    inputs, plan = layout.having("manifest", "labels"), partial(ship.plan, layout.config)
    layout.models["shipped"] = layout.make("ship", plan, **inputs, **mixture, **candidates)


def _starts(init: str, tuned: Handle, transferred: Handle) -> dict[str, Handle]:
    """The student that distillation starts from, as its input `checkpoint`; none for one from scratch."""
    return {"finetuned": {"checkpoint": tuned}, "transferred": {"checkpoint": transferred}}.get(init, {})


def _second(layout: Layout, name: str, model: Handle, layer: str = "features") -> Handle:
    """The features of a network other than the teacher. They are laid out once."""
    plan: Plan = partial(embed.plan, layout.config, part="train", layer=layer)
    return layout.made.get(f"embed-{name}") or layout.make(
        f"embed-{name}", plan, manifest=layout.made["manifest"], checkpoint=model
    )


def _keep_learned(layout: Layout) -> None:
    """Use the models that an earlier run trained on the few labels."""
    for label, name in TUNED.items():
        if label in layout.kept:
            layout.models[name] = layout.make(label, _nothing, manifest=layout.made["manifest"])
    if layout.config.ship.compare:
        gone = ["spread", "spread-scratch", "pixels", "weigh"]
    elif "distill" in layout.kept:
        gone = ["predict", *(["propagate"] if layout.config.predict.neighbours else [])]
    else:
        gone = []
    for stage in ("labels", *gone):
        layout.leave_out(stage, "the run keeps the networks of an earlier run", "manifest")


def _distill(layout: Layout, draw: Handle, student: Handle, tuned: Handle) -> Handle:
    """Lay out the fine-tuned networks' probabilities for all images, and the final student that learns them.

    Args:
        layout: the run's layout.
        draw: the drawn labels.
        student: the student after transfer.
        tuned: the fine-tuned student.
    """
    config, images = layout.config, layout.made["manifest"]
    teacher = layout.made.get("finetune-teacher")
    members = {"checkpoint": tuned}
    if teacher is not None:
        members = {"checkpoint": teacher} | ({"student": tuned} if config.predict.student else {})
    probabilities = layout.make("predict", partial(predict.plan, config), manifest=images, **members)
    last = _starts(config.distill.init, tuned, student).get("checkpoint")
    second = None if teacher is None else ("teacher-finetuned", teacher)
    for round in range(1, config.distill.rounds + 1):
        end = "" if round == config.distill.rounds else f"-round{round}"
        targets = probabilities
        if config.predict.neighbours:
            targets = _propagate(layout, f"propagate{end}", probabilities, second)
        start = {} if last is None else {"checkpoint": last}
        plan = partial(distill.plan, config, round=round)
        last = layout.make(
            f"distill{end}", plan, manifest=images, labels=draw, probabilities=targets, **start
        )
        second = (f"student{end}", last)
    return last


def _propagate(
    layout: Layout, label: str, probabilities: Handle, second: tuple[str, Handle] | None
) -> Handle:
    """Lay out the propagation of labels over the graph of nearest neighbours.

    Args:
        layout: the run's layout.
        label: the stage's label.
        probabilities: the probabilities of all images.
        second: name and handle of a second network. With `predict.joint`, neighbours are searched in both
            networks' features. None: only the teacher's features are used.
    """
    config, made = layout.config, layout.made
    inputs = {"features": made["embed"], "probabilities": probabilities, "labels": made["labels"]}
    if "cluster" in made:
        inputs["clusters"] = made["cluster"]
    if config.predict.joint and second is not None:
        inputs["second"] = _second(layout, *second)
    return layout.make(label, partial(propagate.plan, config), **inputs)


def _nothing(**inputs: Artifact) -> Artifact:
    """Stands for the plan of a kept stage. `Layout.make` returns the kept artifact instead of calling it."""
    raise AssertionError("a kept stage never calls its plan")
