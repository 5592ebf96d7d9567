"""How a benchmark measures and what it leaves: contestants in turn, all values kept, the machine named.

A measurement on a shared machine drifts, so contestants take turns, and what is claimed is the ratio within a round:
its median over rounds, and the range.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any, Literal

PACKAGES = ("torch", "torchvision", "faiss-gpu", "prefect", "pyarrow", "numpy", "lightly", "knowledge-transfer")


@dataclass
class Comparison:
    """One thing measured, for ours and for what a user would pick instead.

    Attributes:
        name: of the benchmark and the case, such as `views-32`; unique.
        title: what is measured.
        unit: of the values.
        better: whether higher or lower values are better.
        values: contestant -> a value a round; ours is the first.
        settings: contestant -> what it is and how it ran, in words.
        goal: the ratio to reach, as the issue or the README claims it: ours / peer for higher, peer / ours for lower values
            being better; None: there is no goal.
        peer: the contestant of the ratio; None: the second.
        limit: what the machine would allow at best, in the same unit, and what that is.
        notes: sentences for the reader.
        extra: further figures, by name.
    """

    name: str
    title: str
    unit: str
    better: Literal["higher", "lower"]
    values: dict[str, list[float]]
    settings: dict[str, str]
    goal: float | None = None
    peer: str | None = None
    limit: tuple[float, str] | None = None
    notes: list[str] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def ours(self) -> str:
        """Name of our contestant."""
        return next(iter(self.values))

    def ratios(self, peer: str | None = None) -> list[float]:
        """How many times better ours is, round by round; above 1 ours wins."""
        other = self.values[peer or self.peer or list(self.values)[1]]
        pairs = zip(self.values[self.ours], other, strict=True)
        return [a / b if self.better == "higher" else b / a for a, b in pairs]


def rounds(contestants: Mapping[str, Callable[[], float]], n: int) -> dict[str, list[float]]:
    """Every contestant once a round, in turn; the order is reversed every other round.

    Args:
        contestants: name -> does the work and returns the value. Each warms up by itself.
        n: rounds.
    """
    found: dict[str, list[float]] = {name: [] for name in contestants}
    for i in range(n):
        for name in list(contestants) if i % 2 == 0 else reversed(list(contestants)):
            found[name].append(contestants[name]())
            print(f"  {name}: {found[name][-1]:.4g}", file=sys.stderr, flush=True)
    return found


def apart(work: Callable[..., float], *given: Any, **variables: str) -> Callable[[], float]:
    """Do `work(*given)` in a process of its own, with more environment variables: what glibc reads can't be changed later.

    Args:
        work: a function of a module, so that it can be found there.
        given: its arguments.
        variables: of the environment.
    """

    def run() -> float:
        usual = dict(os.environ)
        os.environ.update(variables)
        try:
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                return pool.submit(work, *given).result()
        finally:
            os.environ.clear()
            os.environ.update(usual)

    return run


def forget_peak() -> None:
    """Let the peak of this process's memory begin anew: a child starts with that of the process it was forked from."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> int:
    """Largest resident memory of this process in bytes since then (getrusage's can't begin anew)."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(status["VmHWM"].split()[0])


def environment() -> dict[str, Any]:
    """Machine, versions, commit."""
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "machine": machine(),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": gpus,
        "python": platform.python_version(),
        "versions": versions,
        "commit": _commit(),
    }


def machine() -> str:
    """A short name for records' folders: gpu or cores and architecture."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name(0).lower().replace(" ", "-")
    return f"{len(os.sched_getaffinity(0))}cores-{platform.machine()}"


def write(comparisons: list[Comparison], folder: Path, command: str) -> None:
    """Add comparisons to a record, in place of those of the same name; each names the command and the machine."""
    folder.mkdir(parents=True, exist_ok=True)
    for comparison in comparisons:
        found = {"command": command, "environment": environment(), **asdict(comparison)}
        (folder / f"{comparison.name}.json").write_text(json.dumps(found, indent=1) + "\n")


def read(folder: Path) -> list[tuple[Comparison, dict[str, Any]]]:
    """The comparisons of a record, each with its command and environment."""
    found = []
    for path in sorted(folder.glob("*.json")):
        values = json.loads(path.read_text())
        about = {name: values.pop(name) for name in ("command", "environment")}
        if values["limit"] is not None:
            values["limit"] = tuple(values["limit"])
        found.append((Comparison(**values), about))
    return found


def middle(values: list[float]) -> tuple[float, float, float]:
    """Median, least, most."""
    return median(values), min(values), max(values)


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _commit() -> str:
    done = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"], capture_output=True, text=True
    )
    return done.stdout.strip() or "unknown"
