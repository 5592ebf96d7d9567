"""Values at the edge of what a field allows: each runs on a tiny set, or is refused by its name."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from config_fields import fields
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from in_process import photographs, run_chain
from pydantic.fields import FieldInfo

from data.errors import UserError
from tasks.config import Config
from tasks.overlay import merge, resolve

BASE = Config().model_dump()


TINY: dict[str, Any] = {
    "data": {"image_size": 16, "labels_per_class": 2},
    "pretext": {"backbone": "smallconv", "width": 0.25, "epochs": 1, "batch_size": 32},
    "cluster": {"k": 5, "iterations": 2},
    "transfer": {"epochs": 1, "batch_size": 32},
    "student": {"backbone": "smallconv", "width": 0.25},
    "finetune": {"steps": 2, "batch_size": 8},
    "predict": {"neighbours": 3},
    "distill": {"epochs": 1, "batch_size": 32},
    "evaluate": {"protocols": ["knn", "few-label", "clusters"], "knn_neighbours": [1]},
}
OUTSIDE = (
    "store",
    "recipe",
    "review",
    "until",
    "pin.",
    "data.train",
    "data.test",
    "data.unlabelled",
    "data.labels",
)


def edges(field: FieldInfo) -> list[Any]:
    """The lowest value that a field allows, and the highest one if it is a share."""
    low, high = None, None
    for constraint in field.metadata:
        low = getattr(constraint, "ge", low)
        high = getattr(constraint, "le", high)
    return [value for value in (low, high if high is not None and high <= 1 else None) if value is not None]


EDGES = [
    (key, value)
    for key, field in fields(resolve(merge(BASE, TINY))).items()
    if not key.startswith(OUTSIDE)
    for value in edges(field)
]


def run_tiny(place: Path, key: str, value: Any) -> None:
    if not (place / "photos").exists():
        photographs(place / "photos", each=30, side=20)
    values = {
        **TINY,
        "data": {**TINY["data"], "train": f"folder:{place / 'photos'}"},
        "store": str(place / "s"),
    }
    inner = value
    for name in reversed(key.split(".")):
        inner = {name: inner}
    try:
        made = run_chain(resolve(merge(BASE, merge(values, inner))))
    except UserError as error:
        refusal = str(error)
    else:
        refusal = ""
    if refusal:
        assert key.rpartition(".")[2] in refusal
        return
    scores = made.result["scores"]
    assert scores
    assert all(math.isfinite(row["value"]) for row in scores)


@settings(
    max_examples=4,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.sampled_from(EDGES))
def test_some_values_at_the_edge_run_or_are_refused(tmp_path: Path, edge: tuple[str, Any]) -> None:
    run_tiny(tmp_path, *edge)


@pytest.mark.slow
@pytest.mark.parametrize(("key", "value"), EDGES, ids=[f"{key}={value}" for key, value in EDGES])
def test_each_value_at_the_edge_runs_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, key: str, value: Any
) -> None:
    run_tiny(tmp_path_factory.getbasetemp(), key, value)
