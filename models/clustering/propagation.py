"""Labels spread over a graph of nearest neighbours (Zhou et al. 2004; Iscen et al. 2019).

N images, C classes; W: (N, N) weights, S = D^-1/2 W D^-1/2 with D = diag(W 1); Y: (N, C) what is known of
each image; F = (1 - alpha) (I - alpha S)^-1 Y. F is the fixed point of F <- alpha S F + (1 - alpha) Y.
"""

from __future__ import annotations

from typing import Any, Literal

import faiss
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from data.errors import ArtifactError, ConfigError, DataError
from models.clustering.nearest import Device, check_points, on_gpu

_ROWS = 16_384
_COLUMNS = 64
"""Number of classes solved for at once."""
_ROUNDS = 50
"""Maximum number of Sinkhorn-Knopp rounds."""


def knn_graph(
    y: NDArray[np.float32],
    neighbours: int,
    *,
    centre: bool = True,
    temperature: float | None = None,
    gamma: float | None = None,
    symmetric: Literal["max", "mean"] = "max",
    device: Device = "auto",
) -> sparse.csr_matrix:
    """Weights between each image and its nearest ones by cosine similarity s, found by exact search.

    W_ij = exp((s_ij - 1) / temperature). If gamma is given, W_ij = max(s_ij, 0)^gamma (Iscen et al. 2019, eq.
    9). It is 0 between two images if neither is among the nearest of the other.

    Args:
        y: (N, d) float32. It is scaled to unit rows here, after centring.
        neighbours: number of neighbours of each image, without itself; 1 to N - 1.
        centre: whether to subtract the mean first. Features behind a ReLU point in similar directions, so
            without this all cosines are near 1.
        temperature: above 0; None: the mean of 1 - s over all neighbours, which suits features of any spread.
        gamma: at least 0. At 0 every neighbour has weight 1. If given, the temperature is ignored.
        symmetric: how the two directions are combined: the larger of the two, or (W + W^T) / 2.
        device: where faiss searches.

    Returns:
        (N, N) float32, symmetric, zero on the diagonal, nowhere below 0.

    Raises:
        ConfigError: neighbours is out of range.
        ArtifactError: y holds values that are not finite.
    """
    y = check_points("features", y)
    n, d = y.shape
    if not 1 <= neighbours < n:
        raise ConfigError(f"neighbours is {neighbours}, but must be 1 to {n - 1}: there are {n} images")
    if centre:
        y = y - y.mean(axis=0, dtype=np.float64).astype(np.float32)
    y = y / np.maximum(np.linalg.norm(y, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    flat: Any
    if on_gpu(device):
        resources = faiss.StandardGpuResources()  # must outlive the index
        config = faiss.GpuIndexFlatConfig()
        config.device = 0
        flat = faiss.GpuIndexFlatIP(resources, d, config)
    else:
        flat = faiss.IndexFlatIP(d)
    flat.add(y)
    similarity = np.empty((n, neighbours), np.float32)
    column = np.empty((n, neighbours), np.int64)
    for start in range(0, n, _ROWS):
        rows = slice(start, start + _ROWS)
        s, j = flat.search(y[rows], neighbours + 1)
        # Drop the image itself. If more than `neighbours` copies hide it, drop the last neighbour found.
        own = j == np.arange(start, start + len(j))[:, None]
        own[:, -1] |= ~own.any(axis=1)
        similarity[rows] = s[~own].reshape(-1, neighbours)
        column[rows] = j[~own].reshape(-1, neighbours)
    np.clip(similarity, -1, 1, out=similarity)
    if gamma is not None:
        weight = np.maximum(similarity, 0) ** np.float32(gamma)
    else:
        scale = float((1 - similarity).mean(dtype=np.float64)) if temperature is None else temperature
        weight = np.exp((similarity - 1) / np.float32(max(scale, 1e-6)))
    graph = sparse.csr_matrix(
        (weight.ravel(), column.ravel(), np.arange(0, n * neighbours + 1, neighbours)), (n, n)
    )
    graph.sort_indices()
    joined = graph.maximum(graph.T) if symmetric == "max" else (graph + graph.T) * np.float32(0.5)
    return sparse.csr_matrix(joined)


def propagate(
    graph: sparse.csr_matrix,
    prior: NDArray[np.floating] | None,
    index: NDArray[np.integer],
    labels: NDArray[np.integer],
    *,
    classes: int | None = None,
    alpha: float = 0.99,
    prior_weight: float = 1.0,
    clamp: bool = False,
    shares: NDArray[np.floating] | None = None,
    tolerance: float = 1e-8,
) -> NDArray[np.float32]:
    """Compute class probabilities of every image from a few labels and a prior guess for the other images.

    Y is one-hot in labelled rows and prior_weight x prior in the others. With `clamp`, labelled rows of F are
    fixed to Y, and the other rows are solved for. Without it, a label is evidence that neighbours can
    outvote. The solver is conjugate gradients, because I - alpha S is symmetric and positive definite.

    Args:
        graph: (N, N), symmetric, nowhere below 0, as `knn_graph` makes it.
        prior: (N, C), rows sum to 1, for example a teacher's probabilities; None: nothing is known.
        index: (L,) rows of the labelled images, each at most once.
        labels: (L,) their classes, 0 to C - 1.
        classes: C; None: as many as the prior has.
        alpha: how far labels spread, 0 to below 1.
        prior_weight: weight of an unlabelled row of Y, where a labelled row has 1; at least 0.
        clamp: whether to fix labelled rows to their labels.
        shares: (C,) shares of the classes, sum 1. Sinkhorn-Knopp balances F to them, as SeLa does with
            pseudo-labels. With few labels this matters more than the graph's weights. A single scaling (class
            mass normalisation, Zhu et al. 2003) is not enough. None: F is not balanced.
        tolerance: residual at which the solution for a class is accepted, relative to the right-hand side.

    Returns:
        (N, C) float32, rows sum to 1. An image that no label or prior reaches keeps its prior. Without a
        prior its row is uniform.

    Raises:
        ConfigError: alpha or the prior's weight is out of range, or both prior and classes are missing.
        DataError: a label is out of range.
        ArtifactError: shapes don't fit, or the prior has values that are not finite.
    """
    n = graph.shape[0]
    if not (0 <= alpha < 1 and prior_weight >= 0):
        raise ConfigError(
            f"alpha is {alpha} and must be at least 0 and below 1; "
            f"prior_weight is {prior_weight} and must be at least 0"
        )
    if classes is None:
        if prior is None:
            raise ConfigError("propagation without a prior needs the number of classes")
        classes = prior.shape[1]
    if len(labels) and not (labels.min() >= 0 and labels.max() < classes):
        raise DataError(
            f"labels reach from {labels.min()} to {labels.max()}, but there are {classes} classes"
        )
    if prior is not None and (prior.shape != (n, classes) or not np.isfinite(prior).all()):
        raise ArtifactError(f"prior: expected ({n}, {classes}) finite probabilities, got shape {prior.shape}")

    y = np.zeros((n, classes)) if prior is None else prior_weight * np.asarray(prior, np.float64)
    y[index] = 0
    y[index, labels] = 1
    degree = np.asarray(graph.sum(axis=1), np.float64).ravel()
    scale = sparse.diags_array(np.divide(1, np.sqrt(degree), out=np.zeros(n), where=degree > 0))
    s = sparse.csr_matrix(scale @ graph @ scale)
    f = np.zeros((n, classes))
    if clamp:
        free = np.setdiff1d(np.arange(n), index)
        f[index] = y[index]
        right = (1 - alpha) * y[free] + alpha * (s[free] @ f)
        f[free] = _solve(s[free][:, free], alpha, right, tolerance)
    else:
        f = _solve(s, alpha, (1 - alpha) * y, tolerance)

    np.maximum(f, 0, out=f)  # conjugate gradients leave small values on either side of zero
    known = f.sum(axis=1) > 0
    f[known] /= f[known].sum(axis=1, keepdims=True)
    if shares is not None:
        f[known] = _balance(f[known], np.asarray(shares, np.float64))
    f[~known] = 1 / classes if prior is None else prior[~known]
    return f.astype(np.float32)


def _balance(f: NDArray[np.float64], shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale columns to their shares and rows to 1 in turn, rows last: (n, C) without empty rows -> (n, C).

    `losses.sinkhorn` does not fit here: it gives all columns the same share, and it exponentiates its input,
    while f has zeros. Zeros can make the shares impossible to reach, so the number of rounds is bounded.
    """
    for _ in range(_ROUNDS):
        mass = f.mean(axis=0)
        scaled = f * np.divide(shares, mass, out=np.zeros_like(mass), where=mass > 0)
        total = scaled.sum(axis=1, keepdims=True)
        # A row that has only classes of share 0 stays as it was.
        f = np.divide(scaled, total, out=f.copy(), where=total > 0)
    return f


def _solve(
    s: sparse.csr_matrix, alpha: float, right: NDArray[np.float64], tolerance: float
) -> NDArray[np.float64]:
    """Solve (I - alpha s) f = right by conjugate gradients, each column by itself. (n, C) -> (n, C)."""
    # Eigenvalues are in [1 - alpha, 1 + alpha], which bounds the number of steps. Twice that leaves room for
    # rounding.
    condition = (1 + alpha) / (1 - alpha)
    steps = 10 + int(np.sqrt(condition) * np.log(2 * condition / tolerance))
    f = np.zeros_like(right)
    for start in range(0, right.shape[1], _COLUMNS):
        columns = slice(start, start + _COLUMNS)
        residual = right[:, columns].copy()
        x, p = np.zeros_like(residual), residual.copy()
        square = np.square(residual).sum(axis=0)
        goal = tolerance**2 * square
        for _ in range(steps):
            if (square <= goal).all():
                break
            ap = p - alpha * (s @ p)
            curvature = (p * ap).sum(axis=0)
            step = np.divide(square, curvature, out=np.zeros_like(square), where=curvature > 0)
            x += step * p
            residual -= step * ap
            before, square = square, np.square(residual).sum(axis=0)
            p = residual + np.divide(square, before, out=np.zeros_like(square), where=before > 0) * p
        f[:, columns] = x
    return f
