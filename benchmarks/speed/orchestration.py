"""How much time Prefect, the store and child processes add to a run, and the time of a fully cached run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from benchmarks.record import Comparison, rounds

EMPTY = """
from flows.server import embedded
assert not embedded.configure(), "a server is configured: this compares with the embedded one"
server = embedded.EmbeddedServer()
from prefect import flow
@flow
def empty():
    return None
server.wait()
empty()
"""


def measure(options: Namespace) -> list[Comparison]:
    """Measure `list`, a fully cached rerun of digits against an empty flow, and the overhead of digits."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_API")}

    def timed(command: list[str]) -> Callable[[], float]:
        def once() -> float:
            began = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True, env=environment)
            return time.perf_counter() - began

        return once

    flows = [sys.executable, "-m", "flows"]
    listing = rounds(
        {"list": timed([*flows, "list"]), "python": timed([sys.executable, "-c", "pass"])},
        max(options.rounds, 5),
    )
    with tempfile.TemporaryDirectory(dir=options.scratch) as name:
        digits = [*flows, "run", "digits", "--store", str(Path(name) / "store"), "--json"]
        began = time.perf_counter()
        done = subprocess.run(digits, check=True, capture_output=True, text=True, env=environment)
        whole = time.perf_counter() - began
        stages = [stage["seconds"] for stage in json.loads(done.stdout)["stages"]]
        again = rounds(
            {"all cached": timed(digits), "empty flow": timed([sys.executable, "-c", EMPTY])}, options.rounds
        )
    beyond = [a - b for a, b in zip(again["all cached"], again["empty flow"], strict=True)]
    return [
        Comparison(
            "list",
            "knowledge-transfer list, from start to end",
            "s",
            "lower",
            listing,
            {"list": "python -m flows list", "python": "python -c pass"},
            notes=["The goal is under 1 s."],
        ),
        Comparison(
            "cached",
            "A rerun of digits with all stages cached, compared with an empty Prefect flow",
            "s",
            "lower",
            again,
            {
                "all cached": f"{len(stages)} stages",
                "empty flow": "a flow that does nothing, on the embedded server",
            },
            notes=[
                "The rerun should take at most 3 s more than the empty flow. For the first run of digits, "
                "`digits_seconds_beyond` is the time of the whole run, minus the sum of its stages' times, "
                "minus the median time of the empty flow. It should be less than 8 s, and less than 0.3 s "
                "when divided by the number of stages."
            ],
            extra={
                "seconds_above_empty": beyond,
                "digits_seconds": whole,
                "digits_seconds_in_stages": sum(stages),
                "digits_seconds_beyond": whole - sum(stages) - sorted(again["empty flow"])[len(beyond) // 2],
                "digits_stages": len(stages),
            },
        ),
    ]
