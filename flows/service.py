"""The process behind `import knowledge_transfer`. It works for a process that must not load our packages.

The flow `predict` uses it too, because a flow's process must not load torch.

    python -m flows.service

A request is one line of JSON on stdin: {"do", "folder", "terminal", ...}. `do` is run, open, describe,
predict, answer, export or recipes. `folder` is the user's current folder. `terminal` is the path of the
user's terminal, or null.

An answer is any number of {"event": "text", "text"}, which the user reads, and then one of
{"event": "done", "value"} and {"event": "refused"|"failed"|"cancelled", "text", "details"}. It goes to the
stdout that the process started with.

`tasks/child.py` describes how the process stops.
"""

from __future__ import annotations

import importlib
import io
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console

from data.errors import ConfigError, StageError
from data.tables import read_matrix, read_table
from flows.ending import PATIENCE
from flows.model_folder import FILES, Usable, description, final_student
from flows.recipes import NAMES, nest, quick
from flows.records import copied_scores, read_record
from flows.run import WATCHERS, headline
from flows.start import chain_parameters, explain, load_flow
from flows.terminal import Terminal
from models.export.given import is_exported
from tasks.child import Stop, Tell, serve
from tasks.config import Config

_SERVING: list[tuple[Terminal, Tell]] = []
"""The terminal and the callback of the request that is being answered; empty between two requests."""


class _Lines(io.StringIO):
    """A file that sends all text written to it to the user's process."""

    def __init__(self, tell: Tell) -> None:
        super().__init__()
        self._tell = tell

    def write(self, text: str) -> int:
        if text:
            self._tell({"event": "text", "text": text})
        return len(text)


def main() -> None:
    """Serve requests until stdin ends."""
    serve(_answer, PATIENCE)


def _answer(request: dict[str, Any], tell: Tell, stop: Stop) -> dict[str, Any]:
    terminal = Terminal(_console(request["terminal"], tell))
    WATCHERS[:] = [terminal]
    _SERVING[:] = [(terminal, tell)]
    try:
        os.chdir(request["folder"])
        value = _DO[request["do"]](request, terminal)
    except BaseException as error:
        failure = explain(error, terminal.run)
        return {"event": failure.kind, "text": failure.text, "details": failure.details}
    finally:
        _SERVING.clear()
    return {"event": "done", "value": value}


def _lost(error: StageError) -> NoReturn:
    """End this process, because Prefect's embedded server died. The next call starts another one."""
    for terminal, tell in _SERVING:
        if terminal.run is not None:
            terminal.run.give_up(error)
        failure = explain(error, terminal.run)
        tell({"event": failure.kind, "text": failure.text, "details": failure.details})
    os._exit(error.status)


def _console(terminal: str | None, tell: Tell) -> Console:
    """Open the user's terminal. If there is none, as in a notebook, send plain lines instead."""
    try:
        if terminal is not None:
            screen = open(terminal, "w", encoding="utf-8")  # noqa: SIM115  # open as long as the console
            columns = os.get_terminal_size(screen.fileno()).columns
            return Console(file=screen, highlight=False, width=columns or None)
    except OSError:
        pass
    return Console(file=_Lines(tell), highlight=False, soft_wrap=True)


def _run(request: dict[str, Any], terminal: Terminal) -> dict[str, Any]:
    over: dict[str, Any] = {}
    for key, value in request["settings"].items():
        nest(over, "plan.minutes" if key == "minutes" else key, value)
    if request["quick"]:
        over, sets = quick(over)
        terminal.note(sets)
    parameters = chain_parameters(request["recipe"], over)
    flow = load_flow("flows.knowledge_transfer", "knowledge_transfer", terminal.note, _lost)
    return _described(Path(flow(**parameters)["folder"]))


def _open(request: dict[str, Any], terminal: Terminal) -> dict[str, Any]:
    named, runs = request["named"], Path(request["store"] or Config().store).expanduser().absolute() / "runs"
    path = Path(named).expanduser().absolute()
    for folder in (path, runs / named):
        if (folder / "run.json").exists():
            return _described(folder)
    if is_exported(path) or all((path / name).exists() for name in FILES):
        return {"model": str(path)}
    raise ConfigError(
        f"{named!r} is neither a run in {runs} nor the folder of a run or of a model (with "
        f"{' and '.join(FILES)}), nor an exported file; give one of these, or name the run's store: store=..."
    )


def _describe(request: dict[str, Any], terminal: Terminal) -> dict[str, Any]:
    return description(Path(request["model"]))


def _export(request: dict[str, Any], terminal: Terminal) -> list[dict[str, Any]]:
    """Do what the command `export` does. Returns a row per format, with the keys of its row in card.json."""
    from flows.export import export_run

    drop = request["max_drop"]
    result = export_run(
        request["run"],
        request["to"],
        request["formats"],
        {} if drop is None else {"export": {"max_drop": drop}},
        listen=partial(terminal.event, "export"),
    )
    for line in result["left_out"]:
        terminal.note(line)
    folder = Path(result["folder"])
    return [
        {"format": name, **row, "file": str(folder / row["file"]) if row["refused"] is None else None}
        for name, row in result["formats"].items()
    ]


def _predict(request: dict[str, Any], terminal: Terminal) -> dict[str, Any]:
    """Ask a model about images. The answers become files in the folder `to`, which the user's process made.

    Keys of the request: model (its folder), words (files, folders and sources) or null, top, all, embed
    (whether vectors are wanted in place of classes), and to. Without words, the images are in `to`: as
    images.npy (N, H, W, C), or as images.npz with one array per image.
    """
    import numpy as np

    from data.sources.given import InMemory, open_given
    from flows.answer import Question, answer

    to, out = Path(request["to"]), Path(request["to"]) / "answers.parquet"
    if request["words"] is not None:
        sources = open_given(request["words"])
    elif (to / "images.npy").exists():
        sources = [InMemory(np.load(to / "images.npy", mmap_mode="r"))]
    else:
        with np.load(to / "images.npz") as arrays:
            sources = [InMemory([arrays[name] for name in arrays.files])]
    question = Question(
        model=Usable(Path(request["model"]), None),
        sources=sources,
        classes=not request["embed"],
        top=request["top"],
        every=request["all"],
        embeddings=request["embed"],
        out=out,
        keep=0,
    )
    with terminal.counting("predict") as progress:
        result = answer(question, terminal.note, progress)
    if request["embed"]:
        table = read_table(out)
        good = ~np.asarray(table["reason"].is_valid())
        vectors = np.full((len(good), table["vector"].type.list_size), np.nan, np.float32)
        vectors[good] = read_matrix(table, "vector")  # it has no rows for nulls
        np.save(to / "vectors.npy", vectors)
    return {"images": result["images"], "bad": result["bad"], "first_bad": result["first_bad"]}


def _answered(request: dict[str, Any], terminal: Terminal) -> dict[str, Any]:
    """Do what the command `predict` does. The request's key `question` has the arguments of `question`."""
    from flows.answer import answer, question

    with terminal.counting("predict") as progress:
        return answer(question(**request["question"]), terminal.note, progress)


def _recipes(request: dict[str, Any], terminal: Terminal) -> dict[str, str]:
    found = {name: importlib.import_module(f"flows.recipes.{name.replace('-', '_')}") for name in NAMES}
    return {name: (module.__doc__ or "").partition("\n")[0] for name, module in found.items()}


_DO: dict[str, Callable[[dict[str, Any], Terminal], Any]] = {
    "run": _run,
    "open": _open,
    "describe": _describe,
    "predict": _predict,
    "export": _export,
    "answer": _answered,
    "recipes": _recipes,
}


def _described(folder: Path) -> dict[str, Any]:
    """Describe a run's folder: its record, its headline, and its final student or why there is none."""
    record = read_record(folder, "name", "config")
    scores = copied_scores(folder, record)
    student, missing = None, ""
    try:
        student = str(final_student(folder))
    except ConfigError as error:
        missing = str(error)
    return {
        "folder": str(folder),
        "name": record["name"],
        "status": record["status"],
        "config": record["config"],
        "headline": {} if scores is None else headline(read_table(scores).to_pylist()),
        "student": student,
        "missing": missing,
        "shipped": str(folder.parent.parent / record["shipped"]["path"]) if record.get("shipped") else None,
        "because": record["shipped"]["because"] if record.get("shipped") else "",
    }


if __name__ == "__main__":
    main()
