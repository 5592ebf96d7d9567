"""Write docs/performance.md and its pictures from the records. The same records give the same bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.record import Comparison, middle, read

HEAD = """# Performance

`python -m benchmarks --page` writes this page from `benchmarks/records/` and `benchmarks/remarks.md`. The
page shows only what was measured. In each round, all contestants are measured one after the other. A ratio
compares our code with the peer in the same round. If it is above 1, ours is faster. The page gives medians
over n measurements, and their ranges.
"""
OURS, PEER = "#0b6e4f", "#8a8f98"
GROWTH = {"growth-n": "N", "growth-k": "k", "growth-d": "d"}
"""Name of a comparison -> what grows in it."""


def write_page(records: Path, page: Path) -> None:
    """Write the page from each machine's newest record that has comparisons.

    Args:
        records: the folder of records, which are folders named <date>_<machine>.
        page: path of the Markdown file; pictures are written to images/performance beside it.
    """
    newest: dict[str, Path] = {}
    for folder in sorted(records.iterdir()):
        if folder.is_dir() and _holds(folder):
            newest[folder.name.partition("_")[2]] = folder
    images = page.parent / "images" / "performance"
    images.mkdir(parents=True, exist_ok=True)
    parts = [HEAD]
    for machine, folder in newest.items():
        found = read(folder)
        parts.append(_machine(machine, folder, found, images))
    machines = [about["environment"] for folder in newest.values() for _, about in read(folder)]
    if not any(machine.get("gpu") for machine in machines):
        parts.append("## On a GPU\n\nWe have not measured this yet, so we claim nothing.\n")
    parts.append((Path(__file__).parent / "remarks.md").read_text())
    page.write_text("\n".join(parts))


def _holds(folder: Path) -> bool:
    """Whether a record is about speed. Other records hold scores or claims."""
    return any("settings" in told and "better" in told for told in map(_told, folder.glob("*.json")))


def _told(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def _machine(machine: str, folder: Path, found: list[tuple[Comparison, dict[str, Any]]], images: Path) -> str:
    about = found[0][1]["environment"]
    lines = [
        f"## {machine}",
        "",
        f"{about['cpu']}, {about['cores']} cores, {about['memory_gib']} GiB"
        + (f", {', '.join(about['gpu'])}" if about["gpu"] else ", no GPU")
        + f". Python {about['python']}, "
        + ", ".join(f"{name} {number}" for name, number in about["versions"].items())
        + f". Record: `benchmarks/records/{folder.name}`.",
        "",
        "| what | ours, median (range) | peer, median (range) | ratio (range) | goal |",
        "| --- | --- | --- | --- | --- |",
    ]
    shown = [comparison for comparison, _ in found if not comparison.name.startswith("growth")]
    for comparison in shown:
        peer = comparison.peer or list(comparison.values)[1]
        goal = "" if comparison.goal is None else f"{comparison.goal:.3g}"
        lines.append(
            f"| {comparison.title} | {_values(comparison, comparison.ours)} "
            f"| {peer}: {_values(comparison, peer)} | {_range(comparison.ratios(), '×')} | {goal} |"
        )
    picture = images / f"{machine}-ratios.svg"
    _ratios(shown, picture)
    lines += ["", f"![Ratios to the peers, with their ranges](images/performance/{picture.name})", ""]
    for comparison, made in found:
        lines += _section(comparison, made, machine, images)
    for what in sorted({path.stem.split("-")[1] for path in folder.glob("profile-*.md")}):
        lines += [f"### Profile: {what}", ""]
        for when in ("before", "after"):
            lines += [f"{when.capitalize()}. {(folder / f'profile-{what}-{when}.md').read_text()}"]
    return "\n".join(lines)


def _section(comparison: Comparison, about: dict[str, Any], machine: str, images: Path) -> list[str]:
    lines = [
        f"### {comparison.title}",
        "",
        f"`{about['command']}` at commit `{about['environment']['commit']}`.",
        "",
    ]
    if comparison.name.startswith("growth"):
        picture = images / f"{machine}-{comparison.name}.svg"
        _growth(comparison, picture)
        grows = " and ".join(
            f"as {GROWTH[comparison.name]}^{comparison.extra[f'{what}_slope']:.2f} for {what}"
            for what in comparison.values
        )
        return [
            *lines,
            f"![{comparison.title}](images/performance/{picture.name})",
            "",
            f"Fitted exponents (the slopes in this log-log plot): the time grows {grows}.",
            "",
        ]
    lines += [
        "| contestant | settings | median (range) | how many times better ours is |",
        "| --- | --- | --- | --- |",
    ]
    for name in comparison.values:
        ratio = "" if name == comparison.ours else _range(comparison.ratios(name), "×")
        lines.append(f"| {name} | {comparison.settings[name]} | {_values(comparison, name)} | {ratio} |")
    if comparison.limit is not None:
        lines.append(f"| limit | {comparison.limit[1]} | {comparison.limit[0]:.4g} {comparison.unit} | |")
    lines += ["", *(f"{note}\n" for note in comparison.notes)]
    curves = comparison.extra.get("curves")
    if curves:
        picture = images / f"{machine}-{comparison.name}-loss.svg"
        _curves(curves, picture)
        lines += [f"![Loss of both, step by step](images/performance/{picture.name})", ""]
    for name, value in comparison.extra.items():
        if name != "curves":
            lines.append(f"- {name}: {_plain(value)}")
    return [*lines, ""] if lines[-1] else lines


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(_plain(item) for item in value)
    if isinstance(value, dict):
        return "; ".join(f"{name} {_plain(item)}" for name, item in value.items())
    return str(value)


def _values(comparison: Comparison, name: str) -> str:
    return _range(comparison.values[name], f" {comparison.unit}")


def _range(values: list[float], unit: str) -> str:
    mid, low, high = middle(values)
    return f"{mid:.3g}{unit} ({low:.3g} to {high:.3g}, n = {len(values)})"


def _figure(width: float, height: float) -> Any:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update(
        {"svg.hashsalt": "performance", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    )
    from matplotlib import pyplot as plt

    return plt.subplots(figsize=(width, height), layout="constrained")


def _save(figure: Any, path: Path) -> None:
    from matplotlib import pyplot as plt

    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _ratios(comparisons: list[Comparison], path: Path) -> None:
    figure, axes = _figure(7.5, 0.42 * len(comparisons) + 0.9)
    for i, comparison in enumerate(reversed(comparisons)):
        mid, low, high = middle(comparison.ratios())
        axes.barh(i, mid, color=OURS if mid >= 1 else PEER, height=0.6)
        axes.plot([low, high], [i, i], color="black", linewidth=1)
        if comparison.goal is not None:
            axes.plot([comparison.goal] * 2, [i - 0.4, i + 0.4], color="#c1440e", linewidth=2)
    axes.set_yticks(range(len(comparisons)), [comparison.name for comparison in reversed(comparisons)])
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xlabel("times faster than the peer (line: range over rounds; red: goal)")
    _save(figure, path)


def _curves(curves: dict[str, list[float]], path: Path) -> None:
    figure, axes = _figure(6, 3)
    for (name, values), colour in zip(curves.items(), (OURS, PEER), strict=True):
        axes.plot(range(1, len(values) + 1), values, label=name, color=colour, linewidth=1.2)
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.legend(frameon=False)
    _save(figure, path)


def _growth(comparison: Comparison, path: Path) -> None:
    axis = GROWTH[comparison.name]
    figure, axes = _figure(5, 3)
    at = [point[axis] for point in comparison.extra["points"]]
    for (what, values), colour in zip(comparison.values.items(), (OURS, PEER), strict=True):
        axes.loglog(at, values, "o-", label=what, color=colour)
    axes.set_xlabel(axis)
    axes.set_ylabel("seconds")
    axes.legend(frameon=False)
    _save(figure, path)
