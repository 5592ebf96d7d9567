"""The drawing of a run's stages: one row per stage, and lines from each stage to those that read it.

It works like `git log --graph`. A stage's dot has a row of its own. Its line runs down in one lane to the row
of the last stage that reads it, and sends a branch to every reader on the way. Then the lane is free for
another stage. So no line passes through a dot, and more stages make the drawing longer, hardly wider. Lines
that other lines imply are left out, because nearly every stage reads the manifest.

This module only computes positions. The template draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import networkx as nx

from data.errors import ArtifactError

ROW = 26.0
"""Height of a row, px."""
LANE, LANES = 16.0, 480.0
"""Width of a lane, px, and the most that all lanes together may take: many lanes are narrower."""
BEND = 7.0
"""Radius where a branch leaves its lane, px."""
MARGIN = 14.0


@dataclass(frozen=True)
class Place:
    """A stage's dot: its centre, px."""

    label: str
    x: float
    y: float


@dataclass(frozen=True)
class Edge:
    """A line from a stage to one that reads it, as an SVG path."""

    source: str
    target: str
    path: str


@dataclass(frozen=True)
class Drawing:
    """The dots from top to bottom, and the lines. `width` is that of the lanes alone, without any text."""

    width: float
    height: float
    places: tuple[Place, ...]
    edges: tuple[Edge, ...]


def ordered(inputs: Mapping[str, Sequence[str]]) -> list[str]:
    """Put every stage after those it reads. If several may come next, the one named first in `inputs` does.

    Args:
        inputs: stage -> the stages that it reads.

    Raises:
        ArtifactError: a stage reads one that is missing, or stages read each other in a circle.
    """
    position = {label: i for i, label in enumerate(inputs)}
    return list(nx.lexicographical_topological_sort(_graph(inputs), key=position.__getitem__))


def layout(inputs: Mapping[str, Sequence[str]]) -> Drawing:
    """Give every stage a row and a lane.

    Args:
        inputs: stage -> the stages that it reads.

    Raises:
        ArtifactError: a stage reads one that is missing, or stages read each other in a circle.
    """
    order = ordered(inputs)
    lines = nx.transitive_reduction(_graph(inputs))
    row = {label: i for i, label in enumerate(order)}
    last = {label: max([row[label], *(row[reader] for reader in lines.successors(label))]) for label in order}
    lane: dict[str, int] = {}
    for label in order:
        at = row[label]
        ending = [lane[source] for source in lines.predecessors(label) if last[source] == at]
        taken = {lane[above] for above in order[:at] if last[above] >= at}
        # Going on in the lane of a stage that nobody else reads makes a chain one straight line.
        lane[label] = min(ending, default=next(i for i in range(len(order)) if i not in taken))
    lanes = 1 + max(lane.values(), default=0)
    step = min(LANE, LANES / lanes)
    x = {label: MARGIN + step * lane[label] for label in order}
    y = {label: MARGIN + ROW * row[label] for label in order}
    edges = tuple(
        Edge(source, target, _path(x[source], y[source], x[target], y[target], min(BEND, step / 2)))
        for target in order
        for source in inputs[target]
        if lines.has_edge(source, target)
    )
    places = tuple(Place(label, x[label], y[label]) for label in order)
    return Drawing(MARGIN + step * lanes, 2 * MARGIN + ROW * max(0, len(order) - 1), places, edges)


def _graph(inputs: Mapping[str, Sequence[str]]) -> nx.DiGraph:
    for label, sources in inputs.items():
        for source in sources:
            if source not in inputs:
                raise ArtifactError(
                    f"report: stage {label!r} reads {source!r}, which is not among the run's stages "
                    f"({', '.join(inputs)}). Give the report every stage of the run."
                )
    graph = nx.DiGraph()
    graph.add_nodes_from(inputs)
    graph.add_edges_from((source, label) for label, sources in inputs.items() for source in sources)
    if not nx.is_directed_acyclic_graph(graph):
        circle = [source for source, _ in nx.find_cycle(graph)]
        circle.append(circle[0])
        raise ArtifactError(f"report: stages read each other in a circle: {' -> '.join(circle)}.")
    return graph


def _path(x0: float, y0: float, x1: float, y1: float, bend: float) -> str:
    """Down in the lane of the source, then sideways to the target in the target's row."""
    if x0 == x1:
        return f"M{x0:.1f} {y0:.1f}V{y1:.1f}"
    turned = x0 + (bend if x1 > x0 else -bend)
    return f"M{x0:.1f} {y0:.1f}V{y1 - bend:.1f}Q{x0:.1f} {y1:.1f} {turned:.1f} {y1:.1f}H{x1:.1f}"
