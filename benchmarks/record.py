"""How a benchmark measures, and the record that it writes: all measured values, and the machine.

Measurements on a shared machine drift. So the contestants take turns, and only ratios within a round are
compared. We report the ratio's median over the rounds, and its range.
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

PACKAGES = (
    "torch",
    "torchvision",
    "faiss-gpu",
    "onnxruntime",
    "prefect",
    "pyarrow",
    "numpy",
    "lightly",
    "knowledge-transfer",
)


@dataclass
class Comparison:
    """A measurement of ours and of what a user would choose instead.

    Attributes:
        name: unique name of the benchmark and the case, such as `views-32`.
        title: what is measured.
        unit: unit of the values.
        better: whether higher or lower values are better.
        values: contestant -> one value per round; ours is the first contestant.
        settings: contestant -> a description of it and of how it ran.
        goal: the ratio that the issue or the README asks for; None: there is no goal. The ratio is ours /
            peer if higher values are better, and peer / ours if lower values are better.
        peer: the contestant that ours is compared with; None: the second one.
        limit: the best value that the machine allows, in the same unit, and a description of it.
        notes: sentences for the reader.
        extra: more results, by name.
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
        """The name of our contestant."""
        return next(iter(self.values))

    def ratios(self, peer: str | None = None) -> list[float]:
        """How many times better ours is than the peer, per round. Above 1, ours wins."""
        other = self.values[peer or self.peer or list(self.values)[1]]
        pairs = zip(self.values[self.ours], other, strict=True)
        return [a / b if self.better == "higher" else b / a for a, b in pairs]


def rounds(contestants: Mapping[str, Callable[[], float]], n: int) -> dict[str, list[float]]:
    """Measure every contestant once per round. The order is reversed in every other round.

    Args:
        contestants: name -> a function that does the work and returns the value. It must warm up by itself.
        n: number of rounds.
    """
    found: dict[str, list[float]] = {name: [] for name in contestants}
    for i in range(n):
        for name in list(contestants) if i % 2 == 0 else reversed(list(contestants)):
            found[name].append(contestants[name]())
            print(f"  {name}: {found[name][-1]:.4g}", file=sys.stderr, flush=True)
    return found


def apart(work: Callable[..., float], *given: Any, **variables: str) -> Callable[[], float]:
    """Make a function that runs `work(*given)` in a new process with more environment variables.

    A new process is needed because glibc reads its variables only at the start.

    Args:
        work: a module's function; the new process imports it from there.
        given: arguments of `work`.
        variables: environment variables to set.
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
    """Reset the peak memory of this process, because a forked process starts with the peak of its parent."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> int:
    """Peak resident memory of this process in bytes since `forget_peak`. getrusage's can't be reset."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(status["VmHWM"].split()[0])


def environment() -> dict[str, Any]:
    """The machine, the versions of libraries, and the commit."""
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
    """A short name of the machine for the record's folder: the GPU, or the cores and the architecture."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name(0).lower().replace(" ", "-")
    return f"{len(os.sched_getaffinity(0))}cores-{platform.machine()}"


def write(comparisons: list[Comparison], folder: Path, command: str) -> None:
    """Add comparisons, the command and the machine to a record. Comparisons of the same name are replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    for comparison in comparisons:
        found = {"command": command, "environment": environment(), **asdict(comparison)}
        (folder / f"{comparison.name}.json").write_text(json.dumps(found, indent=1) + "\n")


def read(folder: Path) -> list[tuple[Comparison, dict[str, Any]]]:
    """Read the comparisons of a record, each with its command and environment."""
    found = []
    for path in sorted(folder.glob("*.json")):
        values = json.loads(path.read_text())
        about = {name: values.pop(name) for name in ("command", "environment")}
        if values["limit"] is not None:
            values["limit"] = tuple(values["limit"])
        found.append((Comparison(**values), about))
    return found


def middle(values: list[float]) -> tuple[float, float, float]:
    """The median, the minimum and the maximum."""
    return median(values), min(values), max(values)


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )


def _commit() -> str:
    done = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
    )
    return done.stdout.strip() or "unknown"
