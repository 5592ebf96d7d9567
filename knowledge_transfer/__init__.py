"""The pipeline in Python: it turns unlabelled images and a few labels into a small, accurate model.

    import knowledge_transfer as kt

    run = kt.run("digits", cluster={"k": 50}, seed=1)
    run.scores  # a pandas DataFrame

Importing this loads neither torch nor Prefect. The first call starts a child process, which does all the
work. docs/python.md is the guide.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from knowledge_transfer._child import CHILD
from knowledge_transfer.errors import RunFailed, UserError
from knowledge_transfer.results import Model, Run, from_answer

__all__ = ["Model", "Run", "RunFailed", "UserError", "open", "recipes", "run"]
__version__ = "0.1.0"


def run(recipe: str | os.PathLike[str] = "digits", /, *, quick: bool = False, **settings: Any) -> Run:
    """Run the whole chain, and show its progress on stderr. A rerun of the same settings computes nothing.

    Ctrl-C stops the run. Its stages keep what they have done, and the same call resumes from there.

    Args:
        recipe: a name in `recipes()`, or a YAML file.
        quick: whether to leave out the baseline from scratch, and every evaluation except `few-label`, which
            measures the accuracy of the trained networks. Your own settings win.
        settings: what differs from the recipe. A section is a dict, such as `cluster={"k": 50}`. A single key
            may be given as `**{"cluster.k": 50}`. `minutes` is the time that a run of the recipe photos may
            take. `store` is the folder that everything is written to. By default it is `store` in the current
            folder.

    Returns:
        The finished run.

    Raises:
        UserError: a recipe, key or value is not allowed, or the images or labels can't be used.
        RunFailed: a stage failed.
    """
    asked = CHILD.ask("run", recipe=os.fspath(recipe), quick=quick, settings=_plain(settings, ""))
    answer = from_answer(asked)
    assert isinstance(answer, Run)
    return answer


def open(run_or_model: str | os.PathLike[str], store: str | os.PathLike[str] | None = None) -> Run | Model:
    """Open a run or a model that already exists.

    Args:
        run_or_model: a run's name or folder, the folder of a model, such as a checkpoint in a store, or a
            file that `Run.export` wrote.
        store: the store that has the run, if you give a run's name. By default it is `store` in the current
            folder.

    Raises:
        UserError: there is no such run or model.
    """
    place = None if store is None else os.fspath(store)
    return from_answer(CHILD.ask("open", named=os.fspath(run_or_model), store=place))


def recipes() -> dict[str, str]:
    """Return the recipes by name, each with a sentence that describes it."""
    found: dict[str, str] = CHILD.ask("recipes")
    return found


def _plain(value: Any, key: str) -> Any:
    """Convert a setting to a JSON value. Paths become strings, and numpy's numbers become Python's."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case os.PathLike():
            return os.fspath(value)
        case Mapping():
            return {name: _plain(inner, f"{key}.{name}" if key else name) for name, inner in value.items()}
        case list() | tuple():
            return [_plain(inner, key) for inner in value]
        case _ if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
            return value.item()
    kind = type(value).__name__
    raise UserError(f"{key} = {value!r}: a {kind} is no setting; give a number, a string, a list or a dict")
