"""How the command line and Python start a flow: checks, server and error messages."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from data.errors import Interrupted, PipelineError, StageError, UserError, about_storage
from data.secrets import mask_all, scrub
from data.store import Store
from flows.recipes import NAMES, override, recipe
from flows.run import Run, stopped


def chain_parameters(named: str, over: dict[str, Any]) -> dict[str, Any]:
    """Check the settings of the flow `knowledge_transfer` and return its parameters. Prefect is not imported.

    Args:
        named: a recipe's name, or a YAML file.
        over: settings that differ from the recipe, as nested dicts.

    Returns:
        The parameters. The paths of the YAML file and of the store are absolute.

    Raises:
        UserError: a recipe, key or value is unknown, or the store can't be written.
    """
    config = override(recipe(named), over)
    Store(config.store)
    given = dict(over)
    # If a section is given in part, its method is the recipe's.
    for section in {"pretext", "transfer"} & over.keys():
        given[section] = {"method": getattr(config, section).method, **over[section]}
    given["store"] = str(Path(config.store).expanduser().absolute())
    parameters = {"recipe": named if named in NAMES else str(Path(named).absolute()), **given}
    masked: dict[str, Any] = mask_all(parameters)  # Prefect stores them
    return masked


def load_flow(
    module: str, name: str, note: Callable[[str], None], lost: Callable[[StageError], object]
) -> Callable[..., dict[str, Any]]:
    """Import a flow. If no server is configured, also start one and wait until it answers.

    Args:
        module: the flow's module.
        name: the name of the flow's function.
        note: called with a line for the user if this takes a while.
        lost: called from another thread if the server that was started here dies. It should end this process.

    Raises:
        ConfigError: the configured server doesn't answer, or there is no folder for one of our own.
        StageError: the server of our own did not start.
    """
    from flows.server import embedded

    server = None
    if not embedded.configure():
        embedded.prepare_home()
        server = embedded.EmbeddedServer(lost)  # starts while Prefect is imported below
        note("starting Prefect's embedded server")
    flow: Callable[..., dict[str, Any]] = getattr(importlib.import_module(module), name)
    if server is not None:
        server.wait()
    else:
        importlib.import_module("flows.server.reach").refuse_silence()
    return flow


@dataclass(frozen=True)
class Failure:
    """How a command or a call failed.

    Attributes:
        kind: `refused` if the user made a mistake.
        status: the exit status of the command.
        text: one line for the user.
        details: the traceback of an unforeseen error that is in no log; otherwise empty.
    """

    kind: Literal["refused", "failed", "cancelled"]
    status: int
    text: str
    details: str = ""


def explain(error: BaseException, run: Run | None) -> Failure:
    """Describe an error to the user. The traceback of an unforeseen one goes to the run's log, if any."""
    if stopped(error):
        kept = "what was done is kept, and the same command resumes from there"
        text = f"interrupted; {kept if run is not None else 'nothing was left half-written'}"
        return Failure("cancelled", Interrupted.status, text)
    line = scrub(" ".join(str(error).split()))
    if isinstance(error, PipelineError):
        return Failure("refused" if isinstance(error, UserError) else "failed", error.status, line)
    known = None if run is None else about_storage(error, run.store.root)
    if known is not None:
        return Failure("refused", known.status, str(known))
    text, details = f"{type(error).__name__}: {line}", scrub("".join(traceback.format_exception(error)))
    if run is None:
        return Failure("failed", 1, text, details)
    with run.log.open("a", encoding="utf-8", errors="replace") as log:
        log.write(details)
    return Failure("failed", 1, f"{text}; this is a fault of the program, not yours; log: {run.log}")
