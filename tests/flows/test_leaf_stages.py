"""Leaf stages are found by their files, requested by name, and skipped with a message if they lack inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_process import Made, photographs, run_chain, small

from data.schemas import ASSIGNMENTS
from data.tables import column, read_table
from flows.estimate import estimate
from tasks.config import Evaluate, protocols
from tasks.found import leaves, stage_module
from tasks.stage import Leaf

OUTLIERS: dict[str, Any] = {"evaluate": {"protocols": ["outliers"]}, "until": "transfer"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("leaves")
    photographs(folder / "photographs", each=60)
    return folder


@pytest.fixture(scope="module")
def ran(place: Path) -> Made:
    return run_chain(small(place, **OUTLIERS), "leaves")


def test_a_file_in_the_folder_of_stages_is_all_that_a_leaf_takes() -> None:
    folder = Path(stage_module("outliers").__file__ or "").parent
    files = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    for name in files:
        assert stage_module(name).STAGE.name == name
    found = {name.replace("-", "_") for name in leaves()}
    assert found == {name for name in files if isinstance(stage_module(name).STAGE, Leaf)}
    assert len((folder / "outliers.py").read_text().splitlines()) <= 40
    sources = Path(__file__).parents[2].glob("*/**/*.py")
    product = [
        path
        for path in sources
        if path.parts[-2] != "stages" and "tests" not in path.parts and "examples" not in path.parts
    ]
    naming = [path for path in product if ".venv" not in path.parts and "outliers" in path.read_text()]
    assert naming == [], "no other file of the product names the stage"


def test_it_is_listed_offered_and_counted(place: Path) -> None:
    assert protocols()["outliers"].startswith("lists the images that are far from their cluster's centroid")
    assert "outliers" in Evaluate.model_json_schema()["properties"]["protocols"]["items"]["enum"]
    planned = {row.stage: row for row in estimate(small(place, **OUTLIERS)).rows}
    assert planned["outliers"].reads == ("assign",)


def test_it_measures_what_it_says(ran: Made) -> None:
    table = read_table(ran.path("assign"), ASSIGNMENTS)
    index, distance = column(table, "index"), column(table, "distance").astype(np.float64)
    far = {int(i) for i, d in zip(index, distance, strict=True) if d > 4 * np.median(distance)}
    written = read_table(ran.path("outliers") / "outliers.parquet")
    assert set(column(written, "index").tolist()) == far
    assert (np.diff(column(written, "times")) <= 0).all()
    (row,) = [row for row in ran.result["scores"] if row["evaluation"] == "outliers"]
    assert row["value"] == pytest.approx(len(far) / len(index))
    assert row["n"] == len(index)
    assert ">Outliers<" in (ran.folder / "report.html").read_text().replace("\n", "")


def test_a_second_run_takes_it_from_the_store(ran: Made, place: Path) -> None:
    again = run_chain(small(place, **OUTLIERS), "again")
    assert again.made == ran.made
    assert all(row["cached"] for row in again.result["stages"])


def test_a_run_without_clusters_leaves_it_out_and_says_so(place: Path) -> None:
    teacher = {"method": "simclr", "backbone": "smallconv", "width": 0.25, "epochs": 1, "batch_size": 32}
    student = {"method": "seed", "epochs": 1, "queue": 64}
    by_teacher = run_chain(small(place, **OUTLIERS, pretext=teacher, transfer=student), "seed")
    assert "outliers" not in by_teacher.made
    assert by_teacher.result["not_needed"]["outliers"] == "the run has no assignments"


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"is unknown; choose one of knn, .*outliers"):
        Evaluate(protocols=["outlier"])
    with pytest.raises(ValueError, match=r"evaluate.options has outliers, which takes no options"):
        Evaluate(options={"outliers": {}})


def test_a_dry_run_says_that_it_does_not_count_a_stage_without_a_size(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(stage_module("outliers"), "size")
    planned = estimate(small(place, **OUTLIERS))
    assert [row.operations for row in planned.rows if row.stage == "outliers"] == [0.0]
    assert [text for text in planned.assumptions if text.startswith("outliers: ")]
