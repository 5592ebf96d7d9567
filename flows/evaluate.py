"""The flow `evaluate`: one model through chosen evaluations, on any images with labels."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

from prefect import flow, runtime

from data.errors import ConfigError, DataError
from data.store import Store
from data.types import Artifact
from flows.chain import CLOSER, DOWNSTREAM, Facts, Handle, Hooks
from flows.model_folder import image_size, model_folder, stored
from flows.recipes import override
from flows.server.execute import execute
from tasks.config import Compute, Config
from tasks.stage import Request
from tasks.stages import adopt, embed, manifest, scores
from tasks.stages import evaluate as measure

Measured = Literal["knn", "linear", "few-label", "layers", "nonlinear", "detection", "segmentation", "multi-label"]


def _flow_run_name() -> str:
    return f"evaluate-{datetime.now(UTC):%Y%m%d-%H%M%S}"


@flow(
    name="evaluate",
    flow_run_name=_flow_run_name,
    validate_parameters=True,
    persist_result=False,
    result_serializer="json",
)
def evaluate(
    model: str,
    data: str | None = "digits",
    test: str | None = None,
    voc: str | None = None,
    protocols: list[Measured] = ["knn", "linear", "few-label"],  # noqa: B006  # Prefect shows it as the default
    compute: Compute | None = None,
    store: str = "store",
) -> dict[str, Any]:
    """Measure one model: nearest neighbours, linear probe, its classifier; or trained further to detect or segment.

    Args:
        model: A run's name or folder (its final student), or a folder with model.safetensors and model.json.
        data: Training images with labels, for knn, linear and few-label: digits, folder:PATH, parquet:PATH or
            torchvision:NAME.
        test: Test images, same forms; empty: 20 % of data is held out.
        voc: Photographs with boxes or masks, for detection, segmentation and multi-label: voc:PATH.
        protocols: What is measured; few-label needs a model with a classifier of the data's classes.
        compute: Where and how to compute.
        store: Folder of the store.

    Returns:
        The run's name, folder, scores and stages.
    """
    folder = model_folder(model, Store(store))
    config = override(
        Config(),
        {
            "recipe": "evaluate",
            "data": {"train": data or "digits", "test": test, "image_size": image_size(folder)},
            "evaluate": {"protocols": list(protocols), "voc": voc},
            "compute": compute.model_dump(exclude_unset=True) if compute else {},
            "store": store,
        },
    )
    if data is None and set(protocols) - set(config.evaluate.downstream):
        raise ConfigError(f"protocol {sorted(set(protocols) - set(config.evaluate.downstream))[0]} needs data: images with labels")  # fmt: skip
    result = execute(config, runtime.flow_run.name or _flow_run_name(), partial(layout, config, folder))
    if not result["scores"]:
        raise DataError(f"model {str(folder)!r} has no classifier of the classes of {data}; choose knn or linear")
    return result


def layout(config: Config, folder: Path, hooks: Hooks) -> dict[str, Handle]:
    """Lay out the stages of an evaluation: features of the model, then its scores.

    Args:
        config: data and evaluations.
        folder: of the model.
        hooks: of whoever runs it.

    Returns:
        label -> handle.

    Raises:
        DataError: there are no labels to evaluate on.
    """
    made: dict[str, Handle] = {}

    def make(label: str, plan: Any, **inputs: Handle) -> Handle:
        made[label] = hooks.step(label, plan, **inputs)
        return made[label]

    def model() -> Artifact | Request:
        return stored(folder, Store(config.store)) or adopt.plan(folder)

    wished = set(config.evaluate.protocols)
    found: dict[str, Handle] = {}
    checkpoint = make("model", model)
    if wished - set(config.evaluate.downstream):
        images = make("manifest", partial(manifest.plan, config))
        facts = Facts.of(hooks.look(images))
        if not (facts.labelled and facts.test):
            raise DataError(f"evaluate: {config.data.test or config.data.train} has no labels; give each class its sub-folder or a label column")  # fmt: skip
        inputs = {"manifest": images, "checkpoint": checkpoint}
        if {"knn", "linear"} & wished:
            inputs |= {
                part: make(f"embed-{part}", partial(embed.plan, config, part=part, layer="features"), **inputs)
                for part in ("train", "test")
            }
        found["evaluate"] = make("evaluate", partial(measure.plan, config, model="model"), **inputs)
        for protocol in sorted(CLOSER.keys() & wished):
            plan = partial(CLOSER[protocol], config, model="model")
            found[protocol] = make(protocol, plan, manifest=images, checkpoint=checkpoint)
    if config.evaluate.downstream:
        images = make("manifest-voc", partial(manifest.plan_voc, config))
        for protocol in config.evaluate.downstream:
            plan = partial(DOWNSTREAM[protocol], config, model="model")
            found[protocol] = make(protocol, plan, manifest=images, checkpoint=checkpoint)
    make("scores", partial(scores.plan, config), manifest=images, **found)
    return made
