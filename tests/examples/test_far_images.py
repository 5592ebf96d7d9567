"""The example of an external stage is listed, counted, run, cached and shown like our own stages."""

from __future__ import annotations

import json
from pathlib import Path

from installed import as_installed, python

RUN = """
import json, sys
from pathlib import Path
from in_process import photographs, run_chain
from flows.estimate import estimate
from flows.recipes import override
from tasks.config import Config

place = Path(sys.argv[1])
photographs(place / "photographs", each=40)
config = override(Config(), {
    "data": {"train": f"folder:{place / 'photographs'}", "image_size": 16},
    "pretext": {"method": "hog"},
    "cluster": {"k": 4},
    "transfer": {"epochs": 1, "batch_size": 16, "optimizer": "adamw", "learning_rate": 1e-3},
    "student": {"backbone": "smallconv", "width": 0.25},
    "evaluate": {"protocols": ["far-images"], "options": {"far-images": {"times": 1.5}}},
    "until": "transfer",
    "compute": {"device": "cpu", "precision": "fp32"},
    "store": str(place / "store"),
})
ran, again = run_chain(config, "example"), run_chain(config, "again")
print(json.dumps({
    "scores": [row for row in ran.result["scores"] if row["evaluation"] == "far-images"],
    "cached": all(row["cached"] for row in again.result["stages"]),
    "planned": [[row.stage, list(row.reads)] for row in estimate(config).rows],
    "report": (ran.folder / "report.html").read_text(),
    "assigned": str(ran.path("assign")),
}))
"""


def test_the_chain_runs_a_stage_that_a_package_brings(tmp_path: Path) -> None:
    import numpy as np

    from data.tables import column, read_table

    said = json.loads(python(RUN, as_installed("far-images", tmp_path), str(tmp_path)).splitlines()[-1])
    (row,) = said["scores"]
    distance = column(read_table(Path(said["assigned"])), "distance")
    assert row["setting"] == "times=1.5"
    assert row["value"] == float((distance > 1.5 * np.median(distance)).mean())
    assert 0 < row["value"] < 1
    assert said["cached"]
    assert ["far-images", ["assign"]] in said["planned"]
    assert "Far images" in said["report"]


def test_it_is_listed_offered_and_its_settings_are_checked(tmp_path: Path) -> None:
    environment = as_installed("far-images", tmp_path)
    listed = python("from flows.__main__ import main; main(['list'])", environment)
    assert (
        "far-images          how many images lie far from their cluster's centroid, by a factor of" in listed
    )
    offered = python(
        "from tasks.config import Evaluate; print(Evaluate.model_json_schema()['properties']['protocols'])",
        environment,
    )
    assert "'far-images'" in offered
    code = (
        "from data.errors import ConfigError\nfrom flows.recipes import override\n"
        "from tasks.config import Config\n"
        "try:\n    override(Config(), {'evaluate': {'options': {'far-images': {'times': 1}}}})\n"
        "except ConfigError as error:\n    print(error)"
    )
    assert "evaluate.options.far-images.times = 1: Input should be greater than 1" in python(
        code, environment
    )
