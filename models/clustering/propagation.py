"""Labels spread over a graph of nearest neighbours (Zhou et al. 2004; Iscen et al. 2019).

N images, C classes; W: (N, N) weights, S = D^-1/2 W D^-1/2 with D = diag(W 1); Y: (N, C) what is known of each image;
F = (1 - alpha) (I - alpha S)^-1 Y, the fixed point of F <- alpha S F + (1 - alpha) Y.
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
"""Classes solved for at once."""
_ROUNDS = 50
"""Of Sinkhorn-Knopp."""


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
    """Weights between each image and its nearest by cosine similarity s, found by exact search.

    W_ij = exp((s_ij - 1) / temperature), or max(s_ij, 0)^gamma (Iscen et al. 2019, eq. 9) if gamma is given; 0 between
    images of which neither is among the other's nearest.

    Args:
        y: (N, d) float32; scaled to unit rows here, after centring.
        neighbours: of each image, itself not counted; 1 to N - 1.
        centre: subtract the mean first: features behind a ReLU all point much the same way, and cosines crowd at 1.
        temperature: above 0; None: the mean of 1 - s over all neighbours, which suits features of any spread.
        gamma: at least 0; 0 gives weight 1 to every neighbour. Overrules the temperature.
        symmetric: how the two directions join: the larger of the two, or (W + W^T) / 2.
        device: where faiss searches.

    Returns:
        (N, N) float32, symmetric, zero on the diagonal, none below 0.

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
        # Drop the image itself; where more than `neighbours` copies of it hide it, the last one found.
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
    graph = sparse.csr_matrix((weight.ravel(), column.ravel(), np.arange(0, n * neighbours + 1, neighbours)), (n, n))
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
    """Class probabilities of every image from the labels of a few and a prior guess of the others.

    Y is one-hot in labelled rows and prior_weight x prior in the others. With `clamp`, labelled rows of F are held at Y
    and the rest is solved given them; without, a label is evidence that neighbours can outvote. Solved by conjugate
    gradients: I - alpha S is symmetric and positive definite.

    Args:
        graph: (N, N), symmetric, none below 0, as `knn_graph` makes it.
        prior: (N, C), rows sum to 1: a teacher's probabilities, say. None: nothing is known.
        index: (L,) rows of the labelled images, none twice.
        labels: (L,) their classes, 0 to C - 1.
        classes: C; None: as many as the prior has.
        alpha: how far labels spread, 0 to below 1.
        prior_weight: of an unlabelled row of Y against a labelled one, at least 0.
        clamp: hold labelled rows at their label.
        shares: (C,) of the classes, sum 1: F is balanced to them by Sinkhorn-Knopp, as pseudo-labels are in SeLa. On
            few labels this matters more than the graph's weights; a single scaling (class mass normalisation, Zhu et
            al. 2003) does not do it. None: F as it is.
        tolerance: residual at which a class's solution is taken, relative to its right side.

    Returns:
        (N, C) float32, rows sum to 1. An image that nothing reaches keeps its prior; without one, its row is uniform.

    Raises:
        ConfigError: alpha or the prior's weight is out of range.
        DataError: a label is out of range.
        ArtifactError: shapes don't fit, or the prior has values that are not finite.
    """
    n = graph.shape[0]
    if not (0 <= alpha < 1 and prior_weight >= 0):
        raise ConfigError(f"alpha is {alpha}, prior_weight {prior_weight}, but must be 0 to below 1, and at least 0")
    if classes is None:
        if prior is None:
            raise ConfigError("propagation without a prior must be told the number of classes")
        classes = prior.shape[1]
    if len(labels) and not (labels.min() >= 0 and labels.max() < classes):
        raise DataError(f"labels reach from {labels.min()} to {labels.max()}, but there are {classes} classes")
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

    np.maximum(f, 0, out=f)  # conjugate gradients end a little to either side of zero
    known = f.sum(axis=1) > 0
    f[known] /= f[known].sum(axis=1, keepdims=True)
    if shares is not None:
        f[known] = _balance(f[known], np.asarray(shares, np.float64))
    f[~known] = 1 / classes if prior is None else prior[~known]
    return f.astype(np.float32)


def _balance(f: NDArray[np.float64], shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale columns to their shares and rows to 1 in turn, rows last. (n, C), no row empty -> (n, C).

    `losses.sinkhorn` can't stand in: it gives all columns the same share and exponentiates its input, while f has zeros.
    Zeros can put the shares out of reach, so the number of rounds is bounded.
    """
    for _ in range(_ROUNDS):
        mass = f.mean(axis=0)
        scaled = f * np.divide(shares, mass, out=np.zeros_like(mass), where=mass > 0)
        total = scaled.sum(axis=1, keepdims=True)
        f = np.divide(scaled, total, out=f.copy(), where=total > 0)  # a row of classes without any share stays
    return f


def _solve(s: sparse.csr_matrix, alpha: float, right: NDArray[np.float64], tolerance: float) -> NDArray[np.float64]:
    """(I - alpha s) f = right by conjugate gradients, each column on its own. (n, C) -> (n, C)."""
    # Eigenvalues lie in [1 - alpha, 1 + alpha], which bounds the steps; twice that leaves room for rounding.
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
