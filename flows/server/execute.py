"""How a layout of stages becomes a flow run: every stage a Prefect task, with futures between them.

The tasks keep no results of Prefect's: what passes between them is the artifact's name, and whether it has to be made is
the store's to say.
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
from flows.chain import Hooks, NotNeeded, Plan
from flows.run import WATCHERS, Origin, Run, stopped
from flows.server import gpu, page
from flows.server.review import ask
from tasks.config import Config

Layout = Callable[[Hooks], dict[str, PrefectFuture[Artifact]]]


def execute(config: Config, name: str, layout: Layout) -> dict[str, Any]:
    """Run stages within a flow run.

    Args:
        config: of the run.
        name: of the run.
        layout: asks for the stages: `chain`, given its configuration.

    Returns:
        What `Run.finish` says.

    Raises:
        UserError: the user's mistake; a review was asked for where nobody can give it.
        StageError: a stage failed.
        Interrupted: somebody asked to stop.
    """
    deployment = runtime.deployment.name
    if config.review and deployment is None:
        raise ConfigError(
            "review = true needs a run of a deployment, on whose page a person can answer; set review=false"
        )
    scheduled = runtime.flow_run.scheduled_start_time
    origin = Origin(deployment, scheduled.isoformat(timespec="seconds") if deployment else None)
    with Run(config, name, [page.Page(), *WATCHERS], origin) as run:
        if deployment is not None and gpu.on_gpu(config.compute):
            run.workers.slot = gpu.slot
        futures: list[PrefectFuture[Any]] = []

        def step(label: str, plan: Plan, /, *, after: Any = None, **inputs: Any) -> PrefectFuture[Artifact]:
            @task(
                name=label, task_run_name=label, cache_policy=NO_CACHE, persist_result=False, result_serializer="json"
            )
            def stage(**artifacts: Artifact) -> State[Artifact]:
                try:
                    made, cached = run.make(label, plan(**artifacts))
                except Interrupted as error:
                    return Cancelled(message=str(error))
                return Completed(name="Cached" if cached else "Completed", data=made)

            future: PrefectFuture[Artifact] = stage.submit(**inputs, wait_for=[after] if after is not None else None)
            futures.append(future)
            return future

        def skip(gone: NotNeeded) -> None:
            run.skip(gone.stage, gone.because)

            @task(name=gone.stage, task_run_name=gone.stage, cache_policy=NO_CACHE, persist_result=False)
            def stage() -> State[None]:
                return Completed(name="Not needed", message=f"not needed by {gone.because}")

            futures.append(stage.submit())

        def look(made: PrefectFuture[Artifact]) -> dict[str, Any]:
            return run.store.meta(made.result())

        def review(asked: Config, clusters: PrefectFuture[Artifact], assigned: PrefectFuture[Artifact]) -> int | None:
            assigned.result()
            k = ask(asked.cluster.k, str(run.store.folder(clusters.result())))
            if k is not None:
                run.choose_k(k)
            return k

        try:
            made = layout(Hooks(step, look, skip, review, run.decide))
            wait(futures)
            _raise_first(futures)
            return run.finish({label: future.result() for label, future in made.items()})
        except CancelledRun as error:
            raise Interrupted(str(error)) from None
        except BaseException as error:
            if stopped(error):
                run.workers.stop()  # threads that wait for a child see it end
            raise


def _raise_first(futures: list[PrefectFuture[Any]]) -> None:
    """Raise the error of the stage that failed first, not of those that never ran for lack of its result."""
    failed = [future.state for future in futures if not future.state.is_completed()]
    for state in failed:
        error = state.result(raise_on_failure=False)
        if isinstance(error, PipelineError | CancelledRun):
            raise error
    for state in failed:
        state.result()
