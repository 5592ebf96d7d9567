"""Lay out the measurements of a run's models, and the report. The flow `evaluate` uses the same functions."""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import asdict
from functools import partial
from typing import Any

from flows.layout import Facts, Handle, Layout, Plan
from tasks.config import Config
from tasks.found import FoundLeaf, leaves
from tasks.stage import Readable
from tasks.stages import answers, embed, evaluate, finetune, labels, manifest, report, scores, without_leaks

UNTOUCHED = ("teacher", "student-transferred")
"""Models that were trained without labels. Leaf stages measure these."""
FEATURES = frozenset({"knn", "linear"})
"""Protocols that read a model's features of all images."""


CLUSTERED = {"clusters": "cluster", "assignments": "assign"}
"""Name of the input of scores and report -> stage that makes it."""


def conclude(layout: Layout, facts: Facts, beside: Set[str] = frozenset()) -> None:
    """Measure every model, collect the scores and write the report.

    Args:
        layout: the run's layout so far.
        facts: what is known about the run's images.
        beside: labels of stages that only decide what a rerun keeps. The report leaves them out, because
            they are new in every rerun, and a rerun without changes must not write a new report.
    """
    config = layout.config
    assigned = layout.images_of(layout.assigned_source, "assign")
    found = _models(layout) if facts.scorable else {}
    if facts.leaked and found:
        plan: Plan = partial(without_leaks.plan, config)
        found["without-leaks"] = layout.make("without-leaks", plan, manifest=layout.made["manifest"], **found)
    answered = _answers(layout) if facts.scorable else {}
    found |= answered
    asked = [leaves()[name] for name in config.evaluate.leaves]
    by_model = [
        leaf for leaf in asked if {"checkpoint", "photographs"} & set(leaf.stage.reads) == {"checkpoint"}
    ]
    for name in UNTOUCHED:
        for leaf in by_model if layout.models.get(name) is not None else ():
            found |= measured(layout, leaf, facts, f"{leaf.stage.protocol}-{name}", name, layout.models[name])
    if facts.scorable and "label-efficiency" in config.evaluate.protocols:
        found |= _label_efficiency(layout)
    for leaf in asked:
        if "photographs" in leaf.stage.reads:
            found |= _on_photographs(layout, leaf, facts)
    for leaf in asked:
        if leaf not in by_model and "photographs" not in leaf.stage.reads:
            found |= measured(layout, leaf, facts, leaf.stage.protocol)
    clustered = {name: layout.made[label] for name, label in CLUSTERED.items() if "assign" in layout.made}
    codes = {} if layout.assigned_source else layout.having("codes")
    table = layout.make(
        "scores", partial(scores.plan, config), manifest=assigned, **clustered, **codes, **found
    )
    named = {"manifest": layout.made["manifest"], "assigned": assigned, "scores": table, **clustered}
    named |= layout.having("codes", "labels") | answered
    others = {
        label: handle for label, handle in layout.made.items() if label not in named and label not in beside
    }
    not_needed = [asdict(stage) for stage in layout.not_needed]
    titles = {leaf.stage.protocol: leaf.title for leaf in asked}
    titles |= {without_leaks.EVALUATION: without_leaks.TITLE} if "without-leaks" in found else {}
    plan = partial(report.plan, config, not_needed=not_needed, titles=titles, ships=_ships(layout))
    layout.make("report", plan, **named, **others)


def _models(layout: Layout) -> dict[str, Handle]:
    """Lay out the evaluation of each model, as label -> handle."""
    config, images = layout.config, layout.made["manifest"]
    last = layout.models.get("student")
    found = {}
    for name, model in layout.models.items():
        inputs = {"manifest": images} | ({"checkpoint": model} if model is not None else {})
        if FEATURES & set(config.evaluate.protocols) and _featured(config, name):
            if name == "teacher":
                train = layout.made["embed"]
                test = _test_features(layout, after=last)
            else:
                plan = partial(embed.plan, config, layer="features")
                train = layout.made.get(f"embed-{name}") or layout.make(
                    f"embed-{name}", partial(plan, part="train"), after=last, **inputs
                )
                test = layout.make(f"embed-{name}-test", partial(plan, part="test"), after=last, **inputs)
            inputs |= {"train": train, "test": test}
        elif model is None:
            continue
        plan = partial(evaluate.plan, config, model=name)
        found[f"evaluate-{name}"] = layout.make(f"evaluate-{name}", plan, after=last, **inputs)
    return found


def _test_features(layout: Layout, after: Handle = None) -> Handle:
    """The features of the test images by the teacher, or by what takes its place. They are laid out once."""
    label = "embed-teacher-test"
    return layout.made.get(label) or layout.features(label, layout.made["manifest"], part="test", after=after)


def _featured(config: Config, model: str) -> bool:
    """Whether the features of a model are measured, besides its classifier.

    The shipped model is a copy of another one. If a run compares classifiers, there are many of them, and
    their features differ little from those of the two networks that they start from.
    """
    return model in UNTOUCHED or not (config.ship.compare or model == "shipped")


def _answers(layout: Layout) -> dict[str, Handle]:
    """Lay out the answers of the model that ships, if it has a classifier, as label -> handle."""
    if layout.ships is None or "few-label" not in layout.config.evaluate.protocols:
        return {}
    name, model = layout.ships
    if name in UNTOUCHED:
        return {}
    plan = partial(answers.plan, layout.config, model=name)
    return {"answers": layout.make("answers", plan, manifest=layout.made["manifest"], checkpoint=model)}


def _ships(layout: Layout) -> dict[str, str] | None:
    """Name and stage of the model that ships; None if the run trains no network."""
    if layout.ships is None:
        return None
    name, model = layout.ships
    return {"model": name, "stage": next(label for label, made in layout.made.items() if made is model)}


def measured(
    layout: Layout,
    leaf: FoundLeaf,
    facts: Facts,
    label: str,
    model: str | None = None,
    checkpoint: Handle = None,
) -> dict[str, Handle]:
    """Lay out a leaf stage. If the run lacks one of its inputs, leave the stage out.

    Args:
        layout: the run's layout.
        leaf: the leaf stage.
        facts: counts of the run's images.
        label: the stage's label in this run.
        model: the model's name in the scores; None for a leaf that reads no checkpoint.
        checkpoint: the model; None if the leaf starts from an untrained network.

    Returns:
        label -> handle; empty if the stage is left out.
    """
    reads = [what for what in leaf.stage.reads if what != "checkpoint"]
    given: dict[str, Handle] = {what: _readable(layout, what, facts) for what in reads}
    missing = [what for what, handle in given.items() if handle is None]
    if leaf.stage.needs_labels and not facts.scorable:
        missing.append("labels of train and test images")
    if missing:
        layout.leave_out(
            label, f"the run has no {missing[0]}", *(what for what in reads if what in layout.made)
        )
        return {}
    others = {what: _readable(layout, what, facts) for what in leaf.stage.may_read}
    given |= {what: handle for what, handle in others.items() if handle is not None}
    plan: Plan = (
        partial(leaf.plan, layout.config) if model is None else partial(leaf.plan, layout.config, model=model)
    )
    if checkpoint is not None:
        given["checkpoint"] = checkpoint
    return {label: layout.make(label, plan, **given)}


def _readable(layout: Layout, what: Readable, facts: Facts) -> Handle | None:
    """The handle of an input of a leaf; None if this run does not have it."""
    config, made = layout.config, layout.made
    match what:
        case "manifest" | "labels" | "answers" | "codes":
            return made.get(what)
        case "embedded":
            return made.get("embed")
        case "embedded_test":
            return _test_features(layout) if facts.test else None
        case "photographs":
            like = {"like": made["manifest"]} if "manifest" in made else {}
            plan = partial(manifest.plan_voc, config)
            return made.get("manifest-voc") or layout.make("manifest-voc", plan, **like)
        case "features":
            return layout.features_of(config.cluster.data if config.transfers else None, "cluster")
        case "assigned":
            return layout.images_of(layout.assigned_source, "assign")
        case "clusters":
            return made.get("cluster")
        case "assignments":
            return made.get("assign")
        case "checkpoint":
            raise AssertionError("the caller passes checkpoints one by one")


def _on_photographs(layout: Layout, leaf: FoundLeaf, facts: Facts) -> dict[str, Handle]:
    """Lay out a leaf that reads annotated photographs.

    It runs once for the model that was trained without labels, and once for the same network from scratch.
    """
    name = "student-transferred" if layout.config.transfers else "teacher"
    found: dict[str, Handle] = {}
    for model, start in ((name, layout.models[name]), ("scratch", None)):
        found |= measured(layout, leaf, facts, f"{leaf.stage.protocol}-{model}", model, start)
    return found


def _label_efficiency(layout: Layout) -> dict[str, Handle]:
    """Fine-tune on several other draws of few labels, both the whole network and with frozen features."""
    name = "student-transferred" if layout.config.transfers else "teacher"
    images, found = layout.made["manifest"], {}
    if layout.models[name] is None:
        return {}
    few = layout.config.evaluate.model_copy(update={"protocols": ["few-label"]})
    measured = layout.config.model_copy(update={"evaluate": few})
    for amount, draw, config in label_draws(layout.config):
        place = f"{amount}-draw{draw}"
        labelled = layout.make(f"labels-{place}", partial(labels.plan, config), manifest=images)
        for how in ("tuned", "frozen"):
            frozen = config.finetune.model_copy(update={"freeze": how == "frozen", "learning_rates": []})
            tuning = config.model_copy(update={"finetune": frozen})
            plan: Plan = partial(finetune.plan, tuning, role="student")
            tuned = layout.make(
                f"finetune-{place}-{how}",
                plan,
                manifest=images,
                labels=labelled,
                checkpoint=layout.models[name],
            )
            row = {"evaluation": "label-efficiency", "setting": f"labels={amount} {how}", "seed": draw}
            plan = partial(evaluate.plan, measured, model=name, row=row)
            label = f"evaluate-{place}-{how}"
            found[label] = layout.make(label, plan, manifest=images, checkpoint=tuned)
    return found


def label_draws(config: Config) -> Iterator[tuple[str, int, Config]]:
    """Yield the draws of `label-efficiency`: number of labels, number of the draw, and its configuration.

    The run's own draw is never among them, because the recipe may have been tuned on it.
    """
    evaluate = config.evaluate
    amounts: list[tuple[str, dict[str, Any]]] = []
    for share in evaluate.label_fractions:
        amounts.append((f"{100 * share:g}pc", {"label_fraction": share, "labels_per_class": None}))
    for n in evaluate.labels_per_class:
        amounts.append((f"{n}each", {"label_fraction": None, "labels_per_class": n}))
    first = (config.seed if config.data.label_seed is None else config.data.label_seed) + 1
    for amount, update in amounts:
        for draw in range(evaluate.label_draws):
            data = config.data.model_copy(update={**update, "label_seed": 1000 * first + draw})
            yield amount, draw, config.model_copy(update={"data": data})
