"""The flow `knowledge-transfer`: the chain of flows/chain.py as Prefect tasks, with progress and results on the run's page."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any

from prefect import flow, runtime
from pydantic import Field

from flows.chain import chain
from flows.execute import execute
from flows.recipes import NAMES, override, recipe
from models.methods.configs import Distill, Finetune, JigsawPlusPlus, PseudoLabels, SimCLR
from tasks.config import Assign, Cluster, Compute, Config, Data, Embed, Evaluate, Predict, Student

Recipe = Annotated[str, Field(json_schema_extra={"enum": list(NAMES)})]
"""A drop-down in the forms; the command line may give a YAML file too."""


def resolve_parameters(parameters: dict[str, Any]) -> Config:
    """The configuration that flow parameters ask for: recipe < sections < shortcuts.

    Of a section only the fields that were given count; the others stay as in the recipe.
    """
    over: dict[str, Any] = {}
    for name, value in parameters.items():
        if name in Config.model_fields and name != "recipe" and value is not None:
            over[name] = value.model_dump(exclude_unset=True) if hasattr(value, "model_dump") else value
    shortcuts = (("k", "cluster", "k"), ("epochs", "pretext", "epochs"), ("label_fraction", "data", "label_fraction"))
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
    return run_name(resolve_parameters(runtime.flow_run.parameters))


@flow(
    name="knowledge-transfer",
    flow_run_name=_flow_run_name,
    validate_parameters=True,
    persist_result=False,
    result_serializer="json",
)
def knowledge_transfer(
    recipe: Recipe = "digits",
    seed: int | None = None,
    k: int | None = None,
    epochs: int | None = None,
    label_fraction: float | None = None,
    data: Data | None = None,
    pretext: SimCLR | JigsawPlusPlus | None = None,
    embed: Embed | None = None,
    cluster: Cluster | None = None,
    assign: Assign | None = None,
    transfer: PseudoLabels | None = None,
    student: Student | None = None,
    finetune: Finetune | None = None,
    predict: Predict | None = None,
    distill: Distill | None = None,
    evaluate: Evaluate | None = None,
    compute: Compute | None = None,
    store: str | None = None,
) -> dict[str, Any]:
    """From unlabelled images and a handful of labels to a small, accurate model.

    Args:
        recipe: Where every setting starts from.
        seed: Seed of everything that has none of its own (0 or more); empty: as in the recipe.
        k: Number of clusters; empty: as in the recipe.
        epochs: Epochs of pretext training; empty: as in the recipe.
        label_fraction: Share of the training labels used (above 0, up to 1); empty: as in the recipe.
        data: Images and labels; only what is filled in changes the recipe. The same holds for each section below.
        pretext: How the teacher is trained.
        embed: Which features are clustered.
        cluster: K-means.
        assign: What is labelled with clusters.
        transfer: How the student is trained on clusters.
        student: The network that is kept in the end.
        finetune: Training on the few labels.
        predict: The teacher's probabilities.
        distill: How the student learns from them.
        evaluate: What is measured.
        compute: Where and how to compute.
        store: Folder of the store; empty: as in the recipe.

    Returns:
        The run's name, folder, scores and stages.
    """
    config = resolve_parameters(runtime.flow_run.parameters)
    return execute(config, run_name(config), partial(chain, config))
