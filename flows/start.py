"""How a flow is started, for the command line and for Python: checks, server, and what its errors say."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from data.errors import Interrupted, PipelineError, UserError
from data.store import Store
from flows.recipes import NAMES, override, recipe
from flows.run import Run, stopped


def chain_parameters(named: str, over: dict[str, Any]) -> dict[str, Any]:
    """What the flow `knowledge_transfer` is called with, checked before Prefect is imported.

    Args:
        named: a recipe's name, or a YAML file.
        over: settings as nested dicts.

    Returns:
        The parameters, with absolute paths of the YAML file and of the store.

    Raises:
        UserError: an unknown recipe, key or value; a store that can't be written.
    """
    config = override(recipe(named), over)
    Store(config.store)
    given = dict(over)
    for section in {
        "pretext",
        "transfer",
    } & over.keys():  # a section given in part is one of the recipe's method
        given[section] = {"method": getattr(config, section).method, **over[section]}
    given["store"] = str(Path(config.store).expanduser().absolute())
    return {"recipe": named if named in NAMES else str(Path(named).absolute()), **given}


def load_flow(module: str, name: str, note: Callable[[str], None]) -> Callable[..., dict[str, Any]]:
    """Import a flow and wait for its server: the configured one, or else one of this process's own.

    Args:
        module: where the flow lies.
        name: of its function.
        note: gets a line for the user if this takes a while.
    """
    from flows.server import embedded

    server = None
    if not embedded.configure():
        server = embedded.EmbeddedServer()  # before Prefect is imported, and starting while it is
        note("starting Prefect's embedded server")
    flow: Callable[..., dict[str, Any]] = getattr(importlib.import_module(module), name)
    if server is not None:
        server.wait()
    return flow


@dataclass(frozen=True)
class Failure:
    """How a command or a call ended that did not succeed.

    Attributes:
        kind: refused: the user's mistake.
        status: the command's exit status.
        text: one line for the user.
        details: the traceback of an error that nobody foresaw and no log holds; empty otherwise.
    """

    kind: Literal["refused", "failed", "cancelled"]
    status: int
    text: str
    details: str = ""


def explain(error: BaseException, run: Run | None) -> Failure:
    """Put an error into words. The traceback of an unforeseen one goes to the run's log, if there is one."""
    if stopped(error):
        text = "interrupted; what was done is kept, the same command goes on from there"
        return Failure("cancelled", Interrupted.status, text)
    line = " ".join(str(error).split())
    if isinstance(error, PipelineError):
        return Failure("refused" if isinstance(error, UserError) else "failed", error.status, line)
    text, details = f"{type(error).__name__}: {line}", "".join(traceback.format_exception(error))
    if run is None:
        return Failure("failed", 1, text, details)
    with run.log.open("a") as log:
        log.write(details)
    return Failure("failed", 1, f"{text}; a fault of the program, not yours; log: {run.log}")
