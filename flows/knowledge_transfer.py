"""The flow `knowledge-transfer`: the chain of flows/chain.py as Prefect tasks, with progress and results on the run's page."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any, Literal

from prefect import flow, runtime, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture, wait
from prefect.states import Completed, State

from data.errors import PipelineError
from data.types import Artifact
from flows import page
from flows.chain import Facts, chain
from flows.recipes import override, recipe
from flows.run import WATCHERS, Run, stopped
from models.methods.configs import Distill, Finetune, JigsawPlusPlus, PseudoLabels, SimCLR
from tasks.config import Assign, Cluster, Compute, Config, Data, Embed, Evaluate, Predict, Student
from tasks.stage import Request

Recipe = Literal["digits", "cifar10", "imagenet-paper"]


def resolve_parameters(parameters: dict[str, Any]) -> Config:
    """The configuration that flow parameters ask for: recipe < sections < shortcuts.

    Of a section only the fields that were given count; the others stay as in the recipe.
    """
    over: dict[str, Any] = {}
    for name, value in parameters.items():
        if name in Config.model_fields and name != "recipe" and value is not None:
            over[name] = value.model_dump(exclude_unset=True) | _method(value) if hasattr(value, "model_dump") else value
    shortcuts = (("k", "cluster", "k"), ("epochs", "pretext", "epochs"), ("label_fraction", "data", "label_fraction"))
    config = override(recipe(parameters["recipe"]), over)
    for name, section, field in shortcuts:
        if parameters.get(name) is not None:
            config = override(config, {section: {field: parameters[name]}})
    return config


def _method(section: Any) -> dict[str, Any]:
    return {"method": section.method} if hasattr(section, "method") else {}


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
    return execute(resolve_parameters(runtime.flow_run.parameters))


def execute(config: Config) -> dict[str, Any]:
    """Run the chain within a flow run.

    Raises:
        UserError: the user's mistake.
        StageError: a stage failed.
        Interrupted: somebody asked to stop.
    """
    with ExitStack() as stack:
        run = stack.enter_context(Run(config, run_name(config), [page.Page(), *WATCHERS]))
        futures: list[PrefectFuture[Any]] = []

        def step(
            label: str, plan: Callable[..., Request], /, *, after: Any = None, **inputs: Any
        ) -> PrefectFuture[Artifact]:
            @task(name=label, task_run_name=label, cache_policy=NO_CACHE, persist_result=False, result_serializer="json")
            def stage(**artifacts: Artifact) -> State[Artifact]:
                made, cached = run.make(label, plan(**artifacts))
                return Completed(name="Cached" if cached else "Completed", data=made)

            future = stage.submit(**inputs, wait_for=[after] if after is not None else None)
            futures.append(future)
            return future

        def look(manifest: PrefectFuture[Artifact]) -> Facts:
            meta = run.store.meta(manifest.result())
            counts = meta["counts"]
            return Facts(counts["train"] + counts["unlabelled"], counts["labelled"], counts["test_labelled"])

        try:
            made = chain(config, step, look)
            wait(futures)
            _raise_first(futures)
            return run.finish({label: future.result() for label, future in made.items()})
        except BaseException as error:
            if stopped(error):
                run.workers.stop()  # threads that wait for a child see it end
            raise


def _raise_first(futures: list[PrefectFuture[Any]]) -> None:
    """Raise the error of the stage that failed first, not of those that never ran for lack of its result."""
    failed = [future.state for future in futures if not future.state.is_completed()]
    for state in failed:
        error = state.result(raise_on_failure=False)
        if isinstance(error, PipelineError) or (isinstance(error, BaseException) and stopped(error)):
            raise error
    for state in failed:
        state.result()
