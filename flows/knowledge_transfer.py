"""The flow `knowledge-transfer`: the chain of flows/chain.py as Prefect tasks, with progress and results on the run's page."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any

from prefect import flow, runtime
from pydantic import Field

from data.errors import ConfigError
from flows.chain import chain
from flows.pin import find, pinned_chain
from flows.recipes import NAMES, override, recipe
from flows.server.execute import execute
from models.configs import PRETEXT, Distill, Finetune, PretextConfig, TransferConfig
from tasks.config import Assign, Cluster, Compute, Config, Data, Embed, Evaluate, Pin, Predict, Student, Until

Recipe = Annotated[str, Field(json_schema_extra={"enum": list(NAMES)})]
"""A drop-down in the forms; the command line may give a YAML file too."""
MethodName = Annotated[str, Field(json_schema_extra={"enum": list(PRETEXT)})]
"""A drop-down; `pretext`, with a tab a method, is where their parameters are."""


def resolve_parameters(parameters: dict[str, Any]) -> Config:
    """The configuration that flow parameters ask for: recipe < sections < shortcuts.

    Of a section only the fields that were given count; the others stay as in the recipe. (Prefect's forms give all
    fields of a section that is opened.)
    """
    over: dict[str, Any] = {}
    for name, value in parameters.items():
        if name in Config.model_fields and name != "recipe" and value is not None:
            over[name] = value.model_dump(exclude_unset=True) if hasattr(value, "model_dump") else value
    shortcuts = (
        ("train", "data", "train"),
        ("test", "data", "test"),
        ("method", "pretext", "method"),
        ("k", "cluster", "k"),
        ("epochs", "pretext", "epochs"),
        ("label_fraction", "data", "label_fraction"),
    )
    config = override(recipe(parameters["recipe"]), over)
    for name, section, field in shortcuts:
        if parameters.get(name) is not None:
            config = override(config, {section: {field: parameters[name]}})
    return config


def run_name(config: Config) -> str:
    """What is told apart at a glance: recipe, method, seed, time."""
    now = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    return f"{config.recipe or 'run'}-{config.pretext.method.replace('+', 'p')}-seed{config.seed}-{now}"


def _flow_run_name() -> str:
    try:
        config = resolve_parameters(runtime.flow_run.parameters)
    except ConfigError:  # the flow itself says so, a moment later
        config = Config()
    return run_name(config)


@flow(
    name="knowledge-transfer",
    flow_run_name=_flow_run_name,
    validate_parameters=True,
    persist_result=False,
    result_serializer="json",
)
def knowledge_transfer(
    recipe: Recipe = "digits",
    seed: Annotated[int, Field(ge=0)] | None = None,
    train: Annotated[str, Field(min_length=1)] | None = None,
    test: Annotated[str, Field(min_length=1)] | None = None,
    method: MethodName | None = None,
    k: Annotated[int, Field(ge=1)] | None = None,
    epochs: Annotated[int, Field(ge=1)] | None = None,
    label_fraction: Annotated[float, Field(gt=0, le=1)] | None = None,
    data: Data | None = None,
    pretext: PretextConfig | None = None,
    embed: Embed | None = None,
    cluster: Cluster | None = None,
    assign: Assign | None = None,
    transfer: TransferConfig | None = None,
    student: Student | None = None,
    finetune: Finetune | None = None,
    predict: Predict | None = None,
    distill: Distill | None = None,
    evaluate: Evaluate | None = None,
    until: Until | None = None,
    pin: Pin | None = None,
    review: bool | None = None,
    compute: Compute | None = None,
    store: str | None = None,
) -> dict[str, Any]:
    """From unlabelled images and a handful of labels to a small, accurate model.

    Args:
        recipe: Where every setting starts from. What stays None is as in the recipe; a section that is opened in the
            form counts with all the values it then shows.
        seed: Seed of everything that has none of its own (0 or more). None: as in the recipe.
        train: Training images: digits, folder:PATH, parquet:PATH or torchvision:NAME; PATH may be any fsspec URL. None:
            as in the recipe, or as opened under data.
        test: Test images, same forms. None: as in the recipe, or as opened under data.
        method: Pretext method, with its usual parameters. None: as in the recipe, or as opened under pretext.
        k: Number of clusters (1 or more). None: as in the recipe.
        epochs: Epochs of pretext training (1 or more). None: as in the recipe.
        label_fraction: Share of the training labels used (above 0, up to 1). None: as in the recipe.
        data: Images and labels. None: as in the recipe.
        pretext: How the teacher is trained. None: as in the recipe.
        embed: Which features are clustered. None: as in the recipe.
        cluster: K-means. None: as in the recipe.
        assign: Which images are labelled with their cluster. None: as in the recipe.
        transfer: How the student is trained on clusters. None: as in the recipe.
        student: The network that is kept in the end. None: as in the recipe.
        finetune: Training on the few labels. None: as in the recipe.
        predict: The teacher's probabilities. None: as in the recipe.
        distill: How the student learns from them. None: as in the recipe.
        evaluate: What is measured. None: as in the recipe.
        until: Where the chain ends: pretext (the teacher alone), transfer (the student without any label), finetune
            (both on the few labels) or distill (all of it). None: as in the recipe.
        pin: Whether a rerun keeps what was trained while the images have changed little. None: as in the recipe.
        review: Wait after clustering for a person's word on the clusters, given on the run's page. None: as in the
            recipe.
        compute: Where and how to compute. None: as in the recipe.
        store: Folder of the store. None: as in the recipe, beside the project.

    Returns:
        The run's name, folder, scores and stages.
    """
    config = resolve_parameters(runtime.flow_run.parameters)
    layout = partial(pinned_chain, config, find(config)) if config.pin.enabled else partial(chain, config)
    return execute(config, runtime.flow_run.name or run_name(config), layout)
