"""Run a layout of stages as a Prefect flow run. Every stage is a task, and futures connect them.

Prefect stores no results of the tasks. Tasks pass on only the artifact's name, and the store decides whether
the artifact has to be made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prefect import runtime, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.exceptions import CancelledRun
from prefect.futures import PrefectFuture, wait
from prefect.states import Cancelled, Completed

from data.errors import ConfigError, Interrupted, PipelineError
from data.types import Artifact
from flows.layout import Hooks, Plan
from flows.run import WATCHERS, Origin, Run, stopped
from flows.server import gpu, page
from flows.server.review import ask
from tasks.config import Config
from tasks.stage import NotNeeded

Layout = Callable[[Hooks], dict[str, PrefectFuture[Artifact]]]


def execute(config: Config, name: str, layout: Layout) -> dict[str, Any]:
    """Run stages within a flow run.

    Args:
        config: the run's configuration.
        name: the run's name.
        layout: lays out the stages with the given hooks, such as `chain` with a configuration.

    Returns:
        The result of `Run.finish`.

    Raises:
        UserError: the user made a mistake, such as a review in a run that has no page to answer on.
        StageError: a stage failed.
        Interrupted: somebody asked the run to stop.
    """
    deployment = runtime.deployment.name
    if config.review and deployment is None:
        raise ConfigError(
            "review = true needs a run of a deployment, because a person answers on the run's page; "
            "set review=false, or start the run from a deployment"
        )
    scheduled = runtime.flow_run.scheduled_start_time
    origin = Origin(deployment, scheduled.isoformat(timespec="seconds") if deployment else None)
    with Run(config, name, [page.Page(), *WATCHERS], origin) as run:
        if deployment is not None and gpu.on_gpu(config.compute):
            run.workers.slot = gpu.slot
        futures: list[PrefectFuture[Any]] = []

        def step(label: str, plan: Plan, /, *, after: Any = None, **inputs: Any) -> PrefectFuture[Artifact]:
            @task(
                name=label,
                task_run_name=label,
                cache_policy=NO_CACHE,
                persist_result=False,
                result_serializer="json",
            )
            def stage(**artifacts: Artifact) -> State[Artifact]:
                try:
                    made, cached = run.make(label, plan(**artifacts))
                except Interrupted as error:
                    return Cancelled(message=str(error))
                return Completed(name="Cached" if cached else "Completed", data=made)

            future: PrefectFuture[Artifact] = stage.submit(
                **inputs, wait_for=[after] if after is not None else None
            )
            futures.append(future)
            return future

        def skip(gone: NotNeeded) -> None:
            run.skip(gone.stage, gone.because)

            @task(name=gone.stage, task_run_name=gone.stage, cache_policy=NO_CACHE, persist_result=False)
            def stage() -> State[None]:
                return Completed(name="Left out", message=f"left out because {gone.because}")

            futures.append(stage.submit())

        def look(made: PrefectFuture[Artifact]) -> dict[str, Any]:
            return run.look(made.result())

        def review(
            asked: Config, clusters: PrefectFuture[Artifact], assigned: PrefectFuture[Artifact]
        ) -> int | None:
            assigned.result()
            k = ask(asked.cluster.k, str(run.store.folder(clusters.result())))
            if k is not None:
                run.choose_k(k)
            return k

        try:
            made = layout(Hooks(step, look, skip, review, run.decide, run.understand, run.follow))
            wait(futures)
            _raise_first(futures)
            return run.finish({label: future.result() for label, future in made.items()})
        except CancelledRun as error:
            raise Interrupted(str(error)) from None
        except BaseException as error:
            if stopped(error):
                run.workers.stop()  # ends the children, so that the threads waiting for them return
            raise


def _raise_first(futures: list[PrefectFuture[Any]]) -> None:
    """Raise the error of the stage that failed, not of the stages that never ran because of it."""
    failed = [future.state for future in futures if not future.state.is_completed()]
    for state in failed:
        error = state.result(raise_on_failure=False)
        if isinstance(error, PipelineError | CancelledRun):
            raise error
    for state in failed:
        state.result()
