"""The flow `predict`: name the classes of many images, and write one row per image."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, Any, Literal

from prefect.artifacts import create_markdown_artifact
from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger
from pydantic import Field

from data.errors import ConfigError, Interrupted, StageError
from data.processes import environment
from flows.answer import question, table
from flows.server.declare import our_flow
from tasks.child import GRACE


@our_flow("predict")
def predict(
    model: str,
    images: list[str],
    out: str = "predictions.parquet",
    top: Annotated[int, Field(ge=1)] = 2,
    all: bool = False,
    embeddings: bool = False,
    neighbours: Annotated[int, Field(ge=0)] = 0,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    store: str = "store",
) -> dict[str, Any]:
    """Name the classes of images, with calibrated probabilities.

    Args:
        model: A run's name or folder (the model that it ships), a checkpoint's folder, or an exported file.
        images: Files, folders, archives or sources, such as parquet:PATH.
        out: The file to write, one row per image: .parquet or .csv.
        top: Number of most likely classes, at least 1.
        all: Give the probability of every class.
        embeddings: Give the features of the last layer below the classifier, as the column vector.
        neighbours: Number of similar training images to find for each image, at least 0.
        device: Where to compute.
        store: Folder of the store.

    Returns:
        The result of `flows.answer.answer`, with the first rows in `predictions`.

    Raises:
        ConfigError: there is no such model, file or folder, or the model can't name classes.
        StageError: the process that does the work failed.
    """
    asked = {
        "model": model,
        "images": images,
        "store": store,
        "top": top,
        "every": all,
        "embeddings": embeddings,
        "neighbours": neighbours,
        "out": out,
        "device": device,
    }
    question(**asked)  # type: ignore[arg-type]  # refuse mistakes before a process is started
    result = _in_child(asked, _logger())
    lines = "\n".join(table(result))
    with suppress(MissingContextError):  # there is no page outside of a flow run
        create_markdown_artifact(f"```\n{lines}\n```", key="predictions", description=f"Answers in {out}")
    return result


def _logger() -> Callable[[str], None]:
    try:
        return get_run_logger().info
    except MissingContextError:
        return print


def _in_child(asked: dict[str, Any], say: Callable[[str], None]) -> dict[str, Any]:
    """Let `flows.service` answer, because a flow's process must not load torch.

    Raises:
        ConfigError: the child refused the question.
        StageError: the child failed or died.
        Interrupted: somebody asked to stop.
    """
    request = {"do": "answer", "folder": os.getcwd(), "terminal": None, "question": asked}
    child = subprocess.Popen(
        [sys.executable, "-X", "utf8", "-u", "-m", "flows.service"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
        start_new_session=True,  # a worker's SIGTERM reaches only us
    )
    assert child.stdin is not None
    assert child.stdout is not None
    event: dict[str, Any] = {}
    try:
        with suppress(BrokenPipeError):  # the child died: reading its answer finds out
            child.stdin.write(json.dumps(request) + "\n")
            child.stdin.flush()
        for line in child.stdout:
            event = json.loads(line)
            if event["event"] != "text":
                break
            if event["text"].strip():
                say(event["text"].strip())
    finally:
        with suppress(OSError):
            child.stdin.close()  # ends the child
        try:
            child.wait(GRACE)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        child.stdout.close()
    match event.get("event"):
        case "done":
            result: dict[str, Any] = event["value"]
            return result
        case "refused":
            raise ConfigError(event["text"])
        case "cancelled":
            raise Interrupted(event["text"])
        case "failed":
            raise StageError(f"predict: {event['text']}\n{event['details']}".strip())
    raise StageError(
        f"predict: its process ended with exit status {child.returncode}; look at its output above"
    )
