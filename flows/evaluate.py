"""The flow `evaluate`: run chosen evaluations of one model on any labelled images."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

from prefect import runtime
from pydantic import AfterValidator, Field

from data.errors import ConfigError, DataError
from data.store import Store
from data.types import Artifact
from flows.layout import Facts, Handle, Hooks, Layout
from flows.measure import FEATURES, measured
from flows.model_folder import ANSWERED, check_protocols, description, image_size, model_folder, stored
from flows.recipes import override
from flows.server.declare import our_flow, timed
from flows.server.execute import execute
from models.export.given import is_exported
from tasks.config import Compute, Config, measurable
from tasks.found import leaves, on_photographs
from tasks.stage import Request
from tasks.stages import adopt, adopt_export, answers, embed, manifest, scores
from tasks.stages import evaluate as measure


def _is_measurable(name: str) -> str:
    if name not in measurable():
        raise ValueError(f"needs more than a model; choose one of {', '.join(measurable())}")
    return name


def _drop_down(schema: dict[str, Any]) -> None:
    schema["enum"] = list(measurable())


Measured = Annotated[str, AfterValidator(_is_measurable), Field(json_schema_extra=_drop_down)]


@our_flow("evaluate")
def evaluate(
    model: str,
    data: str | None = "digits",
    test: str | None = None,
    voc: str | None = None,
    protocols: list[Measured] = ["knn", "linear", "few-label"],  # noqa: B006  # Prefect shows it as the default
    compute: Compute | None = None,
    store: str = "store",
) -> dict[str, Any]:
    """Measure one model: its features, its classifier, or how well it learns to detect or segment objects.

    Args:
        model: A run's name or folder (the model that it ships is measured), a folder with
            model.safetensors and model.json, or an exported file.
        data: Labelled training images for knn, linear and few-label: digits, folder:PATH, parquet:PATH or
            torchvision:NAME.
        test: Test images, in the same forms. Empty: 20 % of data is held out.
        voc: Photographs with boxes or masks, for detection, segmentation and multi-label: voc:PATH.
        protocols: Evaluations to run. few-label needs a model with a classifier for the data's classes. It
            is the only one for an exported file.
        compute: Where and how to compute.
        store: Folder of the store.

    Returns:
        The run's name, folder, scores and stages.

    Raises:
        ConfigError: there is no such model, an evaluation lacks its data, or an exported file can't be
            measured by it.
        DataError: there are no labels, or the model has no classifier of the data's classes.
    """
    place = model_folder(model, Store(store))
    check_protocols(place, protocols)
    config = override(
        Config(),
        {
            "recipe": "evaluate",
            "data": {"train": data or "digits", "test": test, "image_size": image_size(place)},
            "evaluate": {"protocols": list(protocols), "voc": voc},
            "compute": compute.model_dump(exclude_unset=True) if compute else {},
            "store": store,
        },
    )
    if data is None and _needs_data(config):
        raise ConfigError(f"protocols {', '.join(protocols)}: labelled images are needed; give data")
    return execute(config, runtime.flow_run.name or timed("evaluate"), partial(lay_out, config, place))


def lay_out(config: Config, place: Path, hooks: Hooks) -> dict[str, Handle]:
    """Lay out the stages of an evaluation: features of the model, then its scores.

    Args:
        config: has the data and the evaluations.
        place: the model, as `flows.model_folder.model_folder` returns it.
        hooks: callbacks that run the stages.

    Returns:
        label -> handle of every stage.

    Raises:
        DataError: the images have no labels, or the model does not name their classes and nothing else is to
            be measured.
    """
    layout = Layout(config, hooks)

    def model() -> Artifact | Request:
        if is_exported(place):
            return adopt_export.plan(place)
        return stored(place, Store(config.store)) or adopt.plan(place)

    checkpoint = layout.make("model", model)
    found: dict[str, Handle] = {}
    facts = Facts(0, 0, 0)
    if _needs_data(config):
        images = layout.make("manifest", partial(manifest.plan, config), like=checkpoint)
        seen = hooks.look(images)
        facts = Facts.of(seen)
        source = config.data.test or config.data.train
        if not facts.scorable:
            raise DataError(
                f"evaluate: {source} has no labels; give each class a sub-folder, or add a label column"
            )
        inputs = {"manifest": images, "checkpoint": checkpoint}
        if ANSWERED in config.evaluate.protocols:
            config = _if_it_names(seen["classes"], place, layout)
        if FEATURES & set(config.evaluate.protocols):
            for part in ("train", "test"):
                plan = partial(embed.plan, config, part=part, layer="features")
                inputs[part] = layout.make(f"embed-{part}", plan, manifest=images, checkpoint=checkpoint)
        found["evaluate"] = layout.make("evaluate", partial(measure.plan, config, model="model"), **inputs)
        if ANSWERED in config.evaluate.protocols:
            plan = partial(answers.plan, config, model="model")
            found["answers"] = layout.make("answers", plan, manifest=images, checkpoint=checkpoint)
    for name in config.evaluate.leaves:
        found |= measured(layout, leaves()[name], facts, name, "model", checkpoint)
    images = layout.made.get("manifest") or layout.made["manifest-voc"]
    layout.make("scores", partial(scores.plan, config), manifest=images, **found)
    return layout.made


def _if_it_names(classes: list[str], place: Path, layout: Layout) -> Config:
    """The configuration without `ANSWERED` if a model does not name the classes of the images.

    Classes that only have numbers are the same as those with names, if there are as many.

    Raises:
        DataError: nothing else is to be measured.
    """
    config, names = layout.config, description(place).get("class_names") or []
    numbers = [str(number) for number in range(len(classes))]
    if len(names) == len(classes) and (names == classes or numbers in (names, classes)):
        return config
    others = [name for name in config.evaluate.protocols if name != ANSWERED]
    if not others:
        source = config.data.test or config.data.train
        raise DataError(
            f"model {str(place)!r} has no classifier for the classes of {source} ({_few(classes)}); "
            f"it names {_few(names) or 'none'}"
        )
    layout.leave_out("answers", "the model has no classifier for the classes of these images", "manifest")
    return config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"protocols": others})})


def _few(names: list[str]) -> str:
    return ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")


def _needs_data(config: Config) -> bool:
    """Whether any evaluation reads labelled images rather than annotated photographs."""
    return bool(set(config.evaluate.protocols) - set(on_photographs()))
