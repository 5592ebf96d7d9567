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

from data.errors import Interrupted, PipelineError
from data.types import Artifact
from flows.layout import Hooks, Plan
from flows.run import WATCHERS, Origin, Run, Waiting, stopped
from flows.server import gpu, page, review
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
        Pause: the run waits for a person (`flows.server.review`). Prefect ends the process.
    """
    deployment = runtime.deployment.name
    if config.review:
        review.refuse_without_page()
    scheduled = runtime.flow_run.scheduled_start_time
    origin = Origin(deployment, scheduled.isoformat(timespec="seconds") if deployment else None)
    reviews = review.Reviews(config.review)
    continues = str(runtime.flow_run.id) if reviews.resumed else None
    run = Run(config, name, [page.Page(), *WATCHERS], origin, continues)
    try:
        return _execute(run, layout, reviews)
    except Waiting as waiting:  # outside of the run, so that nothing is left to do when the person answers
        try:
            review.suspend(waiting)
        except Exception as error:
            run.give_up(error)
            raise


def _execute(run: Run, layout: Layout, reviews: review.Reviews) -> dict[str, Any]:
    """Run the stages -> the result of `Run.finish`."""
    config = run.config
    with run:
        review.settle(run)
        if runtime.deployment.name is not None and gpu.on_gpu(config.compute):
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

        def ask(
            asked: Config, clusters: PrefectFuture[Artifact], assigned: PrefectFuture[Artifact]
        ) -> int | None:
            wait(futures)  # a run that waits computes nothing
            _raise_first(futures)
            k = reviews.look(run, asked.cluster.k, clusters.result())
            if k is not None:
                run.choose_k(k)
            return k

        try:
            made = layout(Hooks(step, look, skip, ask, run.decide, run.understand, run.follow))
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
