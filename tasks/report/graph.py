"""Where the stages of a run stand when drawn: a layered layout (Sugiyama, Tagawa and Toda 1981), top to bottom.

Layers by longest path, dummy nodes on long edges, order by barycentres, then x by alternating least squares. Edges that
others imply are left out, since nearly every stage reads the manifest. No drawing here: the template does that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from math import inf

from data.errors import ArtifactError

WIDTH, HEIGHT = 172.0, 54.0
GAP_X, GAP_Y = 22.0, 34.0
LANE = 26.0
"""Width that an edge takes where it passes through a layer."""
MARGIN = 10.0
SWEEPS = 24


@dataclass(frozen=True)
class Place:
    """A stage's box: its top left corner, in px."""

    label: str
    x: float
    y: float


@dataclass(frozen=True)
class Edge:
    """A line from `source` to `target`: an SVG path, from the lower side of the one to the upper side of the other."""

    source: str
    target: str
    path: str


@dataclass(frozen=True)
class Drawing:
    """Everything in px; every box is WIDTH by HEIGHT."""

    width: float
    height: float
    places: tuple[Place, ...]
    edges: tuple[Edge, ...]


_Node = str | tuple[str, str, int]
"""A stage's label, or the place where the edge (source, target) crosses a layer."""


def layout(inputs: Mapping[str, Sequence[str]]) -> Drawing:
    """Place every stage; `inputs` names the stages that each one reads.

    Raises:
        ArtifactError: a stage reads one that is not there, or stages read each other in a circle.
    """
    for label, sources in inputs.items():
        for source in sources:
            if source not in inputs:
                raise ArtifactError(
                    f"report: stage {label!r} reads {source!r}, which is not among the run's stages "
                    f"({', '.join(inputs)}). List every stage of the run, cached ones too."
                )
    try:
        order = tuple(TopologicalSorter(inputs).static_order())
    except CycleError as error:
        raise ArtifactError(f"report: stages read each other in a circle: {' -> '.join(error.args[1])}.") from error
    if not order:
        return Drawing(2 * MARGIN, 2 * MARGIN, (), ())
    parents = _reduced(inputs, order)
    layer = _layers(parents, order)
    rows, above, below = _with_lanes(parents, layer, order)
    _untangle(rows, above, below)
    x = _positions(rows, above, below)

    left = min(x[node] - _width(node) / 2 for row in rows for node in row) - MARGIN
    right = max(x[node] + _width(node) / 2 for row in rows for node in row) + MARGIN
    top = [MARGIN + i * (HEIGHT + GAP_Y) for i in range(len(rows))]
    places = tuple(Place(label, x[label] - WIDTH / 2 - left, top[layer[label]]) for label in inputs)
    edges = tuple(
        Edge(source, target, _path(_chain(source, target, layer), x, top, layer, left))
        for target in inputs
        for source in parents[target]
    )
    return Drawing(right - left, top[-1] + HEIGHT + MARGIN, places, edges)


def _reduced(inputs: Mapping[str, Sequence[str]], order: Sequence[str]) -> dict[str, list[str]]:
    """Transitive reduction: a parent that is an ancestor of another parent is implied."""
    ancestors: dict[str, set[str]] = {}
    for label in order:
        ancestors[label] = set(inputs[label]).union(*(ancestors[parent] for parent in inputs[label]))
    return {
        label: [p for p in dict.fromkeys(inputs[label]) if not any(p in ancestors[q] for q in inputs[label])]
        for label in inputs
    }


def _layers(parents: Mapping[str, Sequence[str]], order: Sequence[str]) -> dict[str, int]:
    """Longest path from the top; a stage with more readers than inputs moves down to its first reader."""
    layer: dict[str, int] = {}
    readers: dict[str, list[str]] = {label: [] for label in order}
    for label in order:
        layer[label] = max((layer[p] + 1 for p in parents[label]), default=0)
        for parent in parents[label]:
            readers[parent].append(label)
    for label in reversed(order):
        if len(readers[label]) > len(parents[label]):
            layer[label] = min(layer[reader] for reader in readers[label]) - 1
    return layer


def _chain(source: str, target: str, layer: Mapping[str, int]) -> list[_Node]:
    lanes = [(source, target, i) for i in range(layer[source] + 1, layer[target])]
    return [source, *lanes, target]


def _with_lanes(
    parents: Mapping[str, Sequence[str]], layer: Mapping[str, int], order: Sequence[str]
) -> tuple[list[list[_Node]], dict[_Node, list[_Node]], dict[_Node, list[_Node]]]:
    """Rows of stages and lanes, and each one's neighbours in the row above and below."""
    rows: list[list[_Node]] = [[] for _ in range(max(layer.values()) + 1)]
    above: dict[_Node, list[_Node]] = {label: [] for label in order}
    below: dict[_Node, list[_Node]] = {label: [] for label in order}
    for label in order:
        rows[layer[label]].append(label)
        for parent in parents[label]:
            chain = _chain(parent, label, layer)
            for i, node in enumerate(chain[1:-1], layer[parent] + 1):
                rows[i].append(node)
                above[node], below[node] = [], []
            for upper, lower in pairwise(chain):
                below[upper].append(lower)
                above[lower].append(upper)
    return rows, above, below


def _untangle(rows: list[list[_Node]], above: Mapping[_Node, list[_Node]], below: Mapping[_Node, list[_Node]]) -> None:
    """Sort rows by the mean place of their neighbours, down and up; the order with fewest crossings stays."""

    def crossings() -> int:
        total = 0
        for upper, lower in pairwise(rows):
            at = {node: i for i, node in enumerate(lower)}
            ends = [at[n] for node in upper for n in sorted(below[node], key=at.__getitem__)]
            total += sum(a > b for i, a in enumerate(ends) for b in ends[i + 1 :])
        return total

    best, fewest = [list(row) for row in rows], crossings()
    for sweep in range(SWEEPS):
        near = above if sweep % 2 == 0 else below
        sequence = range(1, len(rows)) if sweep % 2 == 0 else range(len(rows) - 2, -1, -1)
        for i in sequence:
            at = {node: j for row in rows for j, node in enumerate(row)}
            own = {node: j for j, node in enumerate(rows[i])}
            rows[i].sort(key=lambda node, at=at, own=own: _mean((at[n] for n in near[node]), own[node]))  # type: ignore[misc]
        if crossings() < fewest:
            best, fewest = [list(row) for row in rows], crossings()
    rows[:] = best


def _mean(values: Iterable[float], otherwise: float) -> float:
    found = list(values)
    return sum(found) / len(found) if found else otherwise


def _width(node: _Node) -> float:
    return WIDTH if isinstance(node, str) else LANE


def _positions(
    rows: list[list[_Node]], above: Mapping[_Node, list[_Node]], below: Mapping[_Node, list[_Node]]
) -> dict[_Node, float]:
    """Centres: row by row as near to the neighbours' mean as order and distance allow."""
    x: dict[_Node, float] = {}
    for row in rows:
        x.update(zip(row, _apart([0.0] * len(row), row), strict=True))
    for sweep in range(SWEEPS):
        for row in rows if sweep % 2 == 0 else reversed(rows):
            wanted = [_mean((x[n] for n in (*above[node], *below[node])), x[node]) for node in row]
            x.update(zip(row, _apart(wanted, row), strict=True))
    for chain in sorted(_chains(rows, above, below), key=len, reverse=True):
        _straighten(chain, rows, x)
    return x


def _chains(
    rows: list[list[_Node]], above: Mapping[_Node, list[_Node]], below: Mapping[_Node, list[_Node]]
) -> list[list[_Node]]:
    """Longest paths, top to bottom, on which nothing branches or joins."""

    def follows(node: _Node) -> bool:
        return len(above[node]) == 1 and len(below[above[node][0]]) == 1

    chains = []
    for node in (node for row in rows for node in row if not follows(node)):
        chain = [node]
        while len(below[chain[-1]]) == 1 and follows(below[chain[-1]][0]):
            chain.append(below[chain[-1]][0])
        chains.append(chain)
    return chains


def _straighten(chain: Sequence[_Node], rows: list[list[_Node]], x: dict[_Node, float]) -> None:
    """Give stretches of the chain, as long as the neighbours leave room for, one x each."""
    row_of = {node: row for row in rows for node in row}
    stretch: list[_Node] = []
    low, high = -inf, inf
    for node in chain:
        row = row_of[node]
        at = row.index(node)
        left = x[row[at - 1]] + _distance(row[at - 1], node) if at > 0 else -inf
        right = x[row[at + 1]] - _distance(node, row[at + 1]) if at + 1 < len(row) else inf
        if max(low, left) > min(high, right):
            stretch, low, high = [], -inf, inf
        stretch.append(node)
        low, high = max(low, left), min(high, right)
        # Settled anew as the stretch grows: what was free before stays free.
        middle = sum(x[n] for n in stretch) / len(stretch)
        x.update(dict.fromkeys(stretch, min(max(middle, low), high)))


def _distance(left: _Node, right: _Node) -> float:
    return (_width(left) + _width(right)) / 2 + GAP_X


def _apart(wanted: Sequence[float], row: Sequence[_Node]) -> list[float]:
    """Least squares to `wanted` with boxes side by side: isotonic regression, by pooling adjacent violators."""
    offset = [0.0]
    for left, right in pairwise(row):
        offset.append(offset[-1] + _distance(left, right))
    blocks: list[tuple[float, int]] = []
    for want, shift in zip(wanted, offset, strict=True):
        value, count = want - shift, 1
        while blocks and blocks[-1][0] > value:
            before, n = blocks.pop()
            value, count = (before * n + value * count) / (n + count), n + count
        blocks.append((value, count))
    flat = [value for value, count in blocks for _ in range(count)]
    return [value + shift for value, shift in zip(flat, offset, strict=True)]


def _path(
    chain: Sequence[_Node], x: Mapping[_Node, float], top: Sequence[float], layer: Mapping[str, int], left: float
) -> str:
    first = layer[str(chain[0])]
    parts = [f"M{x[chain[0]] - left:.1f} {top[first] + HEIGHT:.1f}"]
    for i, (upper, lower) in enumerate(pairwise(chain), first):
        x0, x1 = x[upper] - left, x[lower] - left
        y0, y1 = top[i] + HEIGHT, top[i + 1]
        bend = (y0 + y1) / 2
        parts.append(f"C{x0:.1f} {bend:.1f} {x1:.1f} {bend:.1f} {x1:.1f} {y1:.1f}")
        if not isinstance(lower, str):
            parts.append(f"V{y1 + HEIGHT:.1f}")
    return "".join(parts)
