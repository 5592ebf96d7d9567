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
from flows.server.form import Given
from flows.server.review import Reviews
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

NONE = "none"
"""The word that means no source, where null means: as in the recipe."""


def resolve_parameters(parameters: dict[str, Any]) -> Config:
    """Build the configuration from flow parameters.

    Sections override the recipe, and shortcuts (such as `k`) override sections. Only the given fields of a
    section count. The others stay as in the recipe.

    Raises:
        ConfigError: a value is not allowed, or two shortcuts contradict each other.
    """
    over: dict[str, Any] = {
        name: value
        for name, value in parameters.items()
        if name in Config.model_fields and name != "recipe" and value is not None
    }
    if parameters.get("minutes") is not None:  # first, so that the plan knows which keys are given
        over["plan"] = {**over.get("plan", {}), "minutes": parameters["minutes"]}
    both = [name for name in ("label_fraction", "labels_per_class") if parameters.get(name) is not None]
    if len(both) == 2:
        raise ConfigError("give label_fraction or labels_per_class, not both")
    shortcuts = (
        ("train", "data", "train"),
        ("test", "data", "test"),
        ("method", "pretext", "method"),
        ("k", "cluster", "k"),
        ("epochs", "pretext", "epochs"),
        ("label_fraction", "data", "label_fraction"),
        ("labels_per_class", "data", "labels_per_class"),
    )
    config = override(recipe(parameters["recipe"]), over)
    for name, section, field in shortcuts:
        value = parameters.get(name)
        if value is not None:
            none = name == "test" and value == NONE
            config = override(config, {section: {field: None if none else value}})
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
    if config.review and runtime.deployment.name is not None and Reviews(True).resumed:
        return str(runtime.flow_run.name)  # the same run goes on
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
    labels_per_class: Annotated[int, Field(ge=1, le=1_000_000)] | None = None,
    plan: Annotated[Plan | None, Given("plan")] = None,
    data: Annotated[Data | None, Given("data")] = None,
    pretext: Annotated[PretextConfig | None, Given("pretext")] = None,
    embed: Annotated[Embed | None, Given("embed")] = None,
    cluster: Annotated[Cluster | None, Given("cluster")] = None,
    assign: Annotated[Assign | None, Given("assign")] = None,
    transfer: Annotated[TransferConfig | None, Given("transfer")] = None,
    student: Annotated[Student | None, Given("student")] = None,
    finetune: Annotated[Finetune | None, Given("finetune")] = None,
    predict: Annotated[Predict | None, Given("predict")] = None,
    distill: Annotated[Distill | None, Given("distill")] = None,
    ship: Annotated[Ship | None, Given("ship")] = None,
    evaluate: Annotated[Evaluate | None, Given("evaluate")] = None,
    export: Annotated[Export | None, Given("export")] = None,
    until: Until | None = None,
    pin: Annotated[Pin | None, Given("pin")] = None,
    review: bool | None = None,
    compute: Annotated[Compute | None, Given("compute")] = None,
    store: str | None = None,
) -> dict[str, Any]:
    """Train a small, accurate model from unlabelled images and a few labels.

    Args:
        recipe: Every setting starts from this recipe. Parameters that stay None keep the recipe's values. So
            do the fields of a section that stay empty.
        seed: Seed of all random draws, unless a section sets another seed (0 or more). None: as in the
            recipe.
        minutes: Minutes that a run of the recipe photos may take; its settings follow from them. None: as in
            the recipe.
        train: Training images: digits, folder:PATH, parquet:PATH or torchvision:NAME. PATH may be any fsspec
            URL. None: as in the section data, or as in the recipe.
        test: Test images, in the same forms. The word none: the test split of train, or else 20 % of train
            held out. None: as in the section data, or as in the recipe. If you change train, set this too.
        method: Pretext method with its default settings. None: as in the section pretext, or as in the
            recipe.
        k: Number of clusters (1 or more). None: as in the recipe.
        epochs: Epochs of pretext training (1 or more). None: as in the recipe.
        label_fraction: Share of the training labels to use (above 0, up to 1). None: as in the recipe.
        labels_per_class: Number of training labels to use per class (1 to 1000000). Give either this or
            label_fraction. None: as in the recipe.
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
