"""Measure our speed and that of what a user would choose instead.

    python -m benchmarks [NAME...]      runs all benchmarks of benchmarks/speed, or some, and writes a record
    python -m benchmarks --page         rewrites docs/performance.md from the newest record of each machine

This needs the extra `bench`. Nothing else should run on the machine. Each benchmark runs in a separate
process.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

NAMES = (
    "views",
    "step",
    "listing",
    "predict",
    "int8",
    "kmeans",
    "assign",
    "vectors",
    "sinkhorn",
    "norms",
    "linear_head",
    "orchestration",
    "growth",
)
ROOT = Path(__file__).parent


def main() -> int:
    """Run the command line. The exit status is the number of benchmarks that failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(NAMES)}; default: all")
    parser.add_argument(
        "--rounds", type=int, default=3, help="how often each contestant is measured (default 3)"
    )
    parser.add_argument(
        "--vectors", type=int, help="number of vectors instead of 1.3 million, for a first look"
    )
    parser.add_argument(
        "--kind", choices=["mixture", "features"], help="kmeans: measure only one of its two data sets"
    )
    parser.add_argument("--images", help="kmeans, listing, predict: the source of images")
    parser.add_argument(
        "--size",
        type=int,
        default=32,
        help="listing, predict: side of the images that networks see, px (default 32)",
    )
    parser.add_argument(
        "--model", type=Path, help="kmeans: folder of the checkpoint that computes the features"
    )
    parser.add_argument("--about", help="kmeans, listing, predict: a description of the images")
    parser.add_argument(
        "--out", type=Path, help="folder of the record; default: benchmarks/records/<date>_<machine>"
    )
    parser.add_argument(
        "--scratch", type=Path, help="folder for some GB of vectors; default: the temporary folder"
    )
    parser.add_argument("--page", action="store_true", help="only write docs/performance.md")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    for name in set(options.names) - set(NAMES):
        parser.error(f"there is no benchmark {name!r}; choose among {', '.join(NAMES)}")
    if options.page:
        from benchmarks.page import write_page

        write_page(ROOT / "records", ROOT.parent / "docs" / "performance.md")
        return 0
    from benchmarks import record

    if options.scratch is not None:
        options.scratch.mkdir(parents=True, exist_ok=True)
    if options.out is None:
        options.out = ROOT / "records" / f"{datetime.now(UTC):%Y-%m-%d}_{record.machine()}"
    if options.here:
        (name,) = options.names
        measured = import_module(f"benchmarks.speed.{name}").measure(options)
        record.write(
            measured,
            options.out,
            f"python -m benchmarks {name} --rounds {options.rounds}"
            + (f" --kind {options.kind}" if options.kind else "")
            + (" --images SOURCE" if options.images else "")
            + (f" --size {options.size}" if name in ("listing", "predict") else "")
            + (" --model FOLDER" if options.model else ""),
        )
        return 0
    failed = 0
    for name in options.names or NAMES:
        print(f"{name} ...", file=sys.stderr, flush=True)
        words = [
            w
            for key in ("vectors", "scratch", "kind", "images", "size", "model", "about")
            if (given := getattr(options, key))
            for w in (f"--{key}", str(given))
        ]
        words += ["--rounds", str(options.rounds), "--out", str(options.out)]
        failed += subprocess.run([sys.executable, "-m", "benchmarks", name, "--here", *words]).returncode != 0
    return failed


if __name__ == "__main__":
    sys.exit(main())
