"""Is a rerun with everything cached as quick as on another commit? Two checkouts take turns on one machine.

    python -m benchmarks.cached_rerun OTHER --store STORE [--recipe digits] [--rounds 8]

OTHER is another checkout, such as a `git worktree` of the commit before. STORE has a finished run of the
recipe; each checkout gets a copy of it. First, each gives the command once and computes what it lacks. Then
they take turns. The result is the median and the range of this checkout's seconds over the other's, by round.
Nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from benchmarks.record import rounds

HERE = Path(__file__).parent.parent


def rerun(checkout: Path, recipe: str, store: Path, home: Path) -> tuple[float, int]:
    """Give the run's command in a checkout -> seconds from start to end, and the stages that it computed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {"PYTHONPATH": str(checkout), "PREFECT_HOME": str(home), "DO_NOT_TRACK": "1"}
    command = [sys.executable, "-m", "flows", "run", recipe, "--store", str(store), "--json"]
    began = time.perf_counter()
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"{checkout}: {done.stderr[-2000:]}")
    return seconds, sum(not stage["cached"] for stage in json.loads(done.stdout)["stages"])


def main() -> None:
    """Measure, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("other", type=Path)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--recipe", default="digits")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--scratch", type=Path, help="where the stores are copied to")
    options = parser.parse_args()
    checkouts = {"this": HERE, "other": options.other.absolute()}
    with tempfile.TemporaryDirectory(dir=options.scratch) as name:
        contestants: dict[str, Callable[[], float]] = {}
        for label, checkout in checkouts.items():
            store, home = Path(name) / label, Path(name) / f"{label}-prefect"
            shutil.copytree(options.store, store)  # with its times
            _, computed = rerun(checkout, options.recipe, store, home)
            print(f"  {label}: the first command computed {computed} stages", file=sys.stderr)

            def once(checkout: Path = checkout, store: Path = store, home: Path = home) -> float:
                seconds, computed = rerun(checkout, options.recipe, store, home)
                assert computed == 0, f"{checkout}: {computed} stages were not cached"
                return seconds

            contestants[label] = once
        found = rounds(contestants, options.rounds)
    ratios = sorted(a / b for a, b in zip(found["this"], found["other"], strict=True))
    told = {"ratio": median(ratios), "lowest": ratios[0], "highest": ratios[-1], "seconds": found}
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
