"""The flow `knowledge-transfer`: run the chain of flows/chain.py as Prefect tasks."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from prefect import runtime
from pydantic import Field

from data.errors import ConfigError
from flows.chain import chain
from flows.pin import find, pinned_chain
from flows.recipes import NAMES, override, recipe
from flows.server.declare import our_flow, timed
from flows.server.execute import execute
from models.configs import PRETEXT, PretextConfig, TransferConfig
from models.configs.distill import Distill
from models.configs.finetune import Finetune
from tasks.config import (
    Assign,
    Cluster,
    Compute,
    Config,
    Data,
    Embed,
    Evaluate,
    Export,
    Pin,
    Plan,
    Predict,
    Ship,
    Student,
    Until,
)

Recipe = Annotated[str, Field(json_schema_extra={"enum": list(NAMES)})]
"""A recipe's name. The forms show a drop-down. The command line also accepts a YAML file."""
MethodName = Annotated[str, Field(json_schema_extra={"enum": list(PRETEXT)})]
"""A pretext method's name. The forms show a drop-down. The section `pretext` has the methods' settings."""


def resolve_parameters(parameters: dict[str, Any]) -> Config:
    """Build the configuration from flow parameters.

    Sections override the recipe, and shortcuts (such as `k`) override sections. Only the given fields of a
    section count. The others stay as in the recipe. (Prefect's forms give all fields of a section that is
    opened.)
    """
    over: dict[str, Any] = {}
    for name, value in parameters.items():
        if name in Config.model_fields and name != "recipe" and value is not None:
            over[name] = value.model_dump(exclude_unset=True) if hasattr(value, "model_dump") else value
    shortcuts = (
        ("minutes", "plan", "minutes"),
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
    """A run's name: recipe, method, seed and time."""
    method = config.pretext.method.replace("+", "p")
    return timed(f"{config.recipe or 'run'}-{method}-seed{config.seed}")


def _run_name() -> str:
    try:
        config = resolve_parameters(runtime.flow_run.parameters)
    except ConfigError:  # the flow itself raises the same error a moment later
        config = Config()
    return run_name(config)


@our_flow("knowledge-transfer", _run_name)
def knowledge_transfer(
    recipe: Recipe = "digits",
    seed: Annotated[int, Field(ge=0)] | None = None,
    minutes: Annotated[float, Field(gt=0)] | None = None,
    train: Annotated[str, Field(min_length=1)] | None = None,
    test: Annotated[str, Field(min_length=1)] | None = None,
    method: MethodName | None = None,
    k: Annotated[int, Field(ge=1)] | None = None,
    epochs: Annotated[int, Field(ge=1)] | None = None,
    label_fraction: Annotated[float, Field(gt=0, le=1)] | None = None,
    plan: Plan | None = None,
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
    ship: Ship | None = None,
    evaluate: Evaluate | None = None,
    export: Export | None = None,
    until: Until | None = None,
    pin: Pin | None = None,
    review: bool | None = None,
    compute: Compute | None = None,
    store: str | None = None,
) -> dict[str, Any]:
    """Train a small, accurate model from unlabelled images and a few labels.

    Args:
        recipe: Every setting starts from this recipe. Parameters that stay None keep the recipe's values. If
            you open a section in the form, all values that the section shows replace the recipe's.
        seed: Seed of all random draws, unless a section sets another seed (0 or more). None: as in the
            recipe.
        minutes: Minutes that a run of the recipe photos may take; its settings follow from them. None: as in
            the recipe.
        train: Training images: digits, folder:PATH, parquet:PATH or torchvision:NAME. PATH may be any fsspec
            URL. None: as in the section data, or as in the recipe.
        test: Test images, in the same forms. None: as in the section data, or as in the recipe.
        method: Pretext method with its default settings. None: as in the section pretext, or as in the
            recipe.
        k: Number of clusters (1 or more). None: as in the recipe.
        epochs: Epochs of pretext training (1 or more). None: as in the recipe.
        label_fraction: Share of the training labels to use (above 0, up to 1). None: as in the recipe.
        plan: How long the run may take. None: as in the recipe.
        data: Images and labels. None: as in the recipe.
        pretext: How the teacher is trained. None: as in the recipe.
        embed: Which features are clustered. None: as in the recipe.
        cluster: K-means. None: as in the recipe.
        assign: Which images get pseudo-labels. None: as in the recipe.
        transfer: How the student is trained without labels. None: as in the recipe.
        student: The final network. None: as in the recipe.
        finetune: How networks are fine-tuned on the few labels. None: as in the recipe.
        predict: How the teacher's probabilities are computed. None: as in the recipe.
        distill: How the student learns from these probabilities. None: as in the recipe.
        ship: Whether the classifiers are compared, and the best one is shipped. None: as in the recipe.
        evaluate: What is measured. None: as in the recipe.
        export: What an exported file may lose. The command export reads it. None: as in the recipe.
        until: Where the chain ends: pretext (after the teacher), head (after a linear
            classifier on the frozen teacher), transfer (after the student is trained
            without labels), finetune (after both are fine-tuned) or distill (run everything). None: as in the
            recipe.
        pin: Whether a rerun keeps the trained networks if few images changed. None: as in the recipe.
        review: Pause after clustering until a person has looked at the clusters on the run's page. None: as
            in the recipe.
        compute: Where and how to compute. None: as in the recipe.
        store: Folder of the store. None: as in the recipe, relative to the working directory.

    Returns:
        The run's name, folder, scores and stages.
    """
    config = resolve_parameters(runtime.flow_run.parameters)
    layout = partial(pinned_chain, config, find(config)) if config.pin.enabled else partial(chain, config)
    return execute(config, runtime.flow_run.name or run_name(config), layout)
